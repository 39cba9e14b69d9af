# SPDX-License-Identifier: GPL-3.0-or-later
"""A network of its own for one machine, whose DHCP server says what to start from."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.network import addresses
from tests.e2e.running import tool


@dataclass(frozen=True)
class Cable:
    """From a network card of QEMU's to an interface of this machine; the addresses of both."""

    interface: str
    here: str
    there: str

    @property
    def words(self) -> list[str]:
        """QEMU's words for a card that the machine starts from."""
        tap = f"tap,id=net,ifname={self.interface},script=no,downscript=no"
        return ["-netdev", tap, "-device", "virtio-net-pci,netdev=net,bootindex=1,romfile="]


@contextmanager
def plugged_in() -> Iterator[Cable]:
    """Lay a cable, and take it away at the end."""
    cable = Cable(f"p2vt{os.getpid()}", *addresses(os.getpid()))
    try:
        tool("ip", "tuntap", "add", cable.interface, "mode", "tap")
        tool("ip", "address", "add", f"{cable.here}/30", "dev", cable.interface)
        tool("ip", "link", "set", cable.interface, "up")
        yield cable
    finally:
        tool("ip", "link", "delete", cable.interface, codes=(0, 1))


@contextmanager
def http_boot(cable: Cable, url: str, folder: Path) -> Iterator[None]:
    """Run dnsmasq, which tells firmware that starts by HTTP, and no other, to start `url`."""
    argv = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
        f"--interface={cable.interface}", "--bind-interfaces",
        f"--dhcp-range={cable.there},{cable.there}", f"--dhcp-leasefile={folder}/leases",
        "--dhcp-vendorclass=set:http,HTTPClient", "--dhcp-option-force=tag:http,60,HTTPClient",
        f"--dhcp-boot=tag:http,{url}",
    ]  # fmt: skip
    with (folder / "dnsmasq.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
