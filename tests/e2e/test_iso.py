# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines start from the live image and are migrated; their disks stay as they are.

Each is a QEMU with its own firmware, controllers and network cards; without hardware virtualisation
it takes one to three minutes until the image has started.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from p2v.images.compare import compare_images
from tests.e2e.physical import (
    Hardware,
    cdrom,
    disk,
    host_network,
    switched_on,
    usb_stick,
)
from tests.e2e.running import Converter, run, tool
from tests.e2e.sources import Spec, digest_of

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
MIGRATION_S = 1500.0
CONVERSION_S = 3000.0
ON_FAILURE = "journalctl -b -o cat -u p2v-unattended > /dev/ttyS0; systemctl poweroff"
slow = pytest.mark.slow


@pytest.fixture(scope="session")
def iso() -> Path:
    """The live image of this tree."""
    if given := os.environ.get("P2V_ISO"):
        return Path(given)
    done = run(["make", "-s", "-C", ROOT, "iso"], timeout_s=1800)
    assert done.code == 0, done.out + done.err
    return next((ROOT / "dist").glob("p2v-*.iso"))


def answers(converter: Converter, **more: object) -> dict[str, object]:
    """Return the answers of an unattended migration to `converter`, as a machine reaches it."""
    return {
        "confirm": "yes",
        "server": converter.address.replace("127.0.0.1", "10.0.2.2"),
        "token": converter.token(),
        "fingerprint": converter.fingerprint,
        "id": "iso-1",
        "wait": 600,
        "convert": False,
        "fail": ON_FAILURE,
        **more,
    }


def stick(folder: Path, said: dict[str, object]) -> list[str]:
    """Return QEMU's words for a stick labelled P2VCONF with an answer file."""
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in said.items()]
    (folder / "p2v.toml").write_text("".join(lines))
    image = folder / "answers.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    tool("mformat", "-i", image, "-v", "P2VCONF", "::")
    tool("mcopy", "-i", image, folder / "p2v.toml", "::/")
    return ["-drive", f"file={image},format=raw,if=none,id=answers",
            "-device", "usb-ehci,id=ehci",
            "-device", "usb-storage,bus=ehci.0,drive=answers,removable=on"]  # fmt: skip


def overlay(base: Path, folder: Path) -> Path:
    """Return a disk that looks like `base`, and in which every write is seen."""
    path = folder / f"{base.stem}.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.resolve(), path)
    return path


def assert_untouched(overlaid: Path) -> None:
    """Nothing was written to an overlay: the disk is, bit for bit, what it was."""
    mapped = json.loads(tool("qemu-img", "map", "--output=json", overlaid))
    assert [extent for extent in mapped if extent["depth"] == 0] == []


def migrated(
    hardware: Hardware, source: Path, device: str, converter: Converter, folder: Path,
    seconds: float = MIGRATION_S, **more: object,
) -> dict:  # fmt: skip
    """Start the machine with its disk and a stick of answers; return the migration's document."""
    said = answers(converter, **more)
    overlaid = overlay(source, folder)
    before = digest_of(source)
    words = [*hardware.devices, *disk(overlaid, device, "qcow2"), *stick(folder, said)]
    with switched_on(Hardware(hardware.firmware, hardware.memory, words), folder) as machine:
        machine.await_off(seconds)
        told = machine.serial
    document = converter.show("iso-1")
    assert document["state"] == "finished", (document["problem"], told[-6000:])
    assert_untouched(overlaid)
    assert digest_of(source) == before
    evidence = Path(document["images"][0]).parent / "evidence.tar.gz"
    names = tool("tar", "-tzf", evidence).split()
    assert {"evidence/dmesg.txt", "evidence/inventory.json", "evidence/lsblk.json"} <= {*names}
    assert str(said["token"]) not in tool("tar", "-xOzf", evidence)
    return document


def image_of(document: dict) -> Path:
    (image,) = document["images"]
    return Path(image)


# --- the whole job, unattended -------------------------------------------------------------------


def test_a_bios_machine_that_starts_from_cd_is_migrated(iso, built, converter, tmp_path):
    source = built(Spec("iso-bios", table="dos", volumes=(("ext4", 64), ("ntfs", 64)))).path
    hardware = Hardware("bios", 1024, [*cdrom(iso), *host_network("e1000e")])
    device = "ide-hd,bus=ide.0,serial=P2VSATA"
    document = migrated(hardware, source, device, converter, tmp_path, all_blocks=True)
    assert compare_images(source, image_of(document)).same


def test_a_uefi_machine_with_secure_boot_that_starts_from_usb_is_migrated(
    iso, built, converter, tmp_path
):
    source = built(Spec("iso-uefi", table="gpt", volumes=(("vfat", 64), ("lvm", 96)))).path
    hardware = Hardware("secure", 1024, [*usb_stick(iso), *host_network("virtio-net-pci")])
    whole = {"format": "raw", "all_blocks": True}
    document = migrated(hardware, source, "nvme,serial=P2VNVME", converter, tmp_path, **whole)
    assert digest_of(image_of(document)) == digest_of(source)
