# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines start from the live image and are migrated unattended; their disks stay as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.physical import Hardware, cdrom, disk, host_network, switched_on, usb_stick
from tests.e2e.running import run, tool
from tests.e2e.sources import Spec, digest_of
from tests.e2e.test_boot import boot

pytestmark = [
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]

ROOT = Path(__file__).parents[2]
MIGRATION_S = 1800.0
ON_FAILURE = "journalctl -b -o cat -u p2v-unattended > /dev/ttyS0; systemctl poweroff"


@pytest.fixture(scope="module")
def iso() -> Path:
    """The live image of this tree."""
    if given := os.environ.get("P2V_ISO"):
        return Path(given)
    done = run(["make", "-s", "-C", ROOT, "iso"], timeout_s=1800)
    assert done.code == 0, done.out + done.err
    return next((ROOT / "dist").glob("p2v-*.iso"))


@pytest.fixture(scope="module")
def server() -> Path:
    """The disk of a Debian 12 server; built once, then kept."""
    disk = ROOT / ".cache" / "web01.img"
    tool(ROOT / "demo" / "debian-disk.sh", disk)
    return disk


def answers_stick(folder: Path, **answers: object) -> list[str]:
    """Return QEMU's words for a stick labelled P2VCONF with an answer file."""
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in answers.items())
    (folder / "p2v.toml").write_text(text)
    stick = folder / "answers.img"
    with stick.open("wb") as file:
        file.truncate(16 << 20)
    tool("mformat", "-i", stick, "-v", "P2VCONF", "::")
    tool("mcopy", "-i", stick, folder / "p2v.toml", "::/")
    return ["-drive", f"file={stick},format=raw,if=none,id=answers",
            "-device", "usb-ehci,id=ehci",
            "-device", "usb-storage,bus=ehci.0,drive=answers,removable=on"]  # fmt: skip


def overlay(base: Path, folder: Path) -> Path:
    """Return a disk that looks like `base`, and in which every write is seen."""
    path = folder / "disk.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path)
    return path


def writes_to(path: Path) -> list[dict]:
    """Return what was written to an overlay."""
    mapped = json.loads(tool("qemu-img", "map", "--output=json", path))
    return [extent for extent in mapped if extent["depth"] == 0]


def migrated(iso_words, hardware, source: Path, device: str, converter, folder: Path, **answers):
    """Start the machine with its disk and a stick of answers; return the migration's document."""
    source = overlay(source, folder)
    said = {
        "confirm": "yes",
        "server": converter.address.replace("127.0.0.1", "10.0.2.2"),
        "token": converter.token(),
        "fingerprint": converter.fingerprint,
        "id": "iso-1",
        "wait": 600,
        "fail": ON_FAILURE,
        **answers,
    }
    devices = [*iso_words, *hardware.devices, *disk(source, device, "qcow2"),
               *answers_stick(folder, **said)]  # fmt: skip
    machine = Hardware(hardware.firmware, hardware.memory, devices)
    with switched_on(machine, folder) as running:
        running.await_off(MIGRATION_S)
        said = running.serial
    document = converter.show("iso-1")
    assert document["state"] == "finished", (document["problem"], said[-3000:])
    assert writes_to(source) == []
    folder_of_images = Path(document["images"][0]).parent
    assert (folder_of_images / "evidence.tar.gz").stat().st_size > 1000
    return document


def test_a_bios_server_started_from_cd_is_migrated_and_its_image_boots(
    iso, server, converter, tmp_path
):
    hardware = Hardware("bios", 1024, host_network("e1000e"))
    document = migrated(cdrom(iso), hardware, server, "virtio-blk-pci", converter, tmp_path)
    said = boot(Path(document["images"][0]), "vhdx", b"web01 login:")
    assert b"Failed to mount" not in said


def test_a_uefi_machine_with_secure_boot_started_from_usb_is_migrated(
    iso, built, converter, tmp_path
):
    source = built(Spec("iso-uefi", table="gpt", volumes=(("ext4", 64), ("ntfs", 64)))).path
    hardware = Hardware("secure", 1024, host_network())
    drive = "nvme,serial=P2VNVME"
    whole = {"format": "raw", "all_blocks": True, "convert": False}
    document = migrated(usb_stick(iso), hardware, source, drive, converter, tmp_path, **whole)
    assert digest_of(Path(document["images"][0])) == digest_of(source)
