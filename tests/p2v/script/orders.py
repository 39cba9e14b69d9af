# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders for the script tests: what is usual, what is many, what is nasty."""

from __future__ import annotations

from dataclasses import replace

from p2v.model.machine import FirmwareKind
from p2v.model.order import Order, OrderedDisk
from p2v.model.vm import OsFamily, SecureBoot, StartAction, VmNic, VmSettings

GiB = 1 << 30
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

NASTY = (
    "O'Brien; Remove-VM *",
    "web 01 (old)",
    "Zürich-Größe-服务器-🚒",
    "‘; Stop-Computer; ’",
    '"$(rm -rf /)" `id` \\',
    "$env:PATH; %PATH%",
    "-Name",
    "*",
    "a'b’c‛d‚e",
    "<vm>&amp;]]></vm>",
    "DOMAIN",
    "--help",
)


def order(disks: int = 1, cards: int = 1, extension: str = "vhdx", **settings) -> Order:
    """Return an order for a machine with so many disks and network cards."""
    vm = {
        "cpus": 4,
        "memory": 8 * GiB,
        "name": "web01",
        "nics": tuple(
            VmNic(f"eno{n}", f"52:54:00:00:00:{n:02x}", "LAN", vlan=10 * n, connected=n != 2)
            for n in range(cards)
        ),
    } | settings
    return Order(
        migration="web01-7f3a9c04",
        vm=VmSettings(**vm),
        disks=tuple(
            OrderedDisk(
                f"web01-7f3a9c04-{n}.{extension}",
                (n + 1) * GiB,
                f"https://10.0.0.1:8443/api/v1/downloads/secret{n}",
                SHA256,
                4096,
            )
            for n in range(disks)
        ),
        storage="D:\\Hyper-V",
        fingerprint="ab" * 32,
        public_key="q83v" * 10 + "q80=",
    )


CASES = {
    "gen1-linux": order(os=OsFamily.LINUX),
    "gen2-linux": order(
        os=OsFamily.LINUX, firmware=FirmwareKind.UEFI, secure_boot=SecureBoot.UEFI_CA
    ),
    "gen2-windows-many": order(
        disks=66,
        cards=3,
        os=OsFamily.WINDOWS,
        firmware=FirmwareKind.UEFI,
        secure_boot=SecureBoot.MICROSOFT,
        clustered=True,
        power_on=True,
        start_action=StartAction.ALWAYS,
    ),
    "gen1-windows-many": order(disks=3, cards=3, os=OsFamily.WINDOWS, power_on=True),
    "gen2-unsigned-alone": order(cards=0, firmware=FirmwareKind.UEFI),
    "gen1-windows-plain": replace(order(disks=2, os=OsFamily.WINDOWS), plain=True),
    "nasty": order(
        disks=2,
        name=NASTY[0] + NASTY[2],
        nics=(VmNic(NASTY[3], "", NASTY[4]),),
    ),
}
