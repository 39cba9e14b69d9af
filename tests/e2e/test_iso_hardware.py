# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks and network cards that the live image finds, and what it lacks, from a stick."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from p2v.images.compare import compare_images
from tests.e2e.live_image import MIGRATION_S, TELL, answers, image_of, migrated, stick
from tests.e2e.physical import Hardware, cdrom, direct, disk, host_network, switched_on
from tests.e2e.running import tool
from tests.e2e.sources import Spec

pytestmark = [
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

CONTROLLERS = {
    "ide": "ide-hd,bus=ide.0",
    "ahci": "ide-hd,bus=ahci.0",
    "nvme": "nvme,serial=P2VNVME",
    "virtio-blk": "virtio-blk-pci",
    "virtio-scsi": "scsi-hd,bus=vscsi.0",
    "megasas": "scsi-hd,bus=megasas.0",
    "lsi": "scsi-hd,bus=lsi.0",
}
BUSES = ("ich9-ahci,id=ahci", "virtio-scsi-pci,id=vscsi", "megasas,id=megasas", "lsi,id=lsi")
CARDS = ("e1000e", "vmxnet3", "virtio-net-pci", "rtl8139")


def test_disks_and_network_cards_of_every_kind_are_found_with_1_gib(iso, converter, tmp_path):
    words = [word for bus in BUSES for word in ("-device", bus)]
    for number, card in enumerate(CARDS):
        net = f"user,id=net{number},net=10.0.{number + 2}.0/24"
        words += ["-netdev", net, "-device", f"{card},netdev=net{number}"]
    for size, (name, device) in enumerate(CONTROLLERS.items(), 16):
        path = tmp_path / f"{name}.img"
        with path.open("wb") as file:
            file.truncate(size << 20)  # by which it is told from the others
        words += disk(path, device)
    words += [
        *direct(iso, tmp_path),
        *cdrom(iso, "ide.1"),
        *stick(tmp_path, answers(converter, pre="p2v-agent inventory --json > /dev/ttyS0")),
    ]
    with switched_on(Hardware("bios", 1024, words, machine="pc"), tmp_path) as machine:
        machine.await_off(MIGRATION_S)
        said = machine.serial
    inventory, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
    found = {found["size"] >> 20 for found in inventory["disks"]}
    assert {*range(16, 16 + len(CONTROLLERS))} <= found
    drivers = {nic["driver"] for nic in inventory["nics"]}
    assert {"e1000e", "vmxnet3", "virtio_net", "8139cp"} <= drivers
    document = converter.show("iso-1")
    assert (document["state"], len(document["images"])) == ("finished", len(CONTROLLERS))


MODULE = "usr/lib/modules/{}/kernel/drivers/net/ethernet/intel/e100.ko.xz"
FIRMWARE = "usr/lib/firmware/e100/d102e_ucode.bin"
HIDE = f"""#!/bin/sh
[ "$1" = prereqs ] && exit
rm "$rootmnt"/{MODULE.format("*")} "$rootmnt"/{FIRMWARE}
"""
APPEND = "echo /scripts/init-bottom/hide >> /scripts/init-bottom/ORDER\n"


def hidden_from_the_image(iso: Path, folder: Path, initrd: Path) -> None:
    """Let the started system have no e100 and no firmware for it; put both into `folder`."""
    tool("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/live", folder / "live-all")
    (system,) = (folder / "live-all").glob("*.squashfs")
    names = tool("unsquashfs", "-l", "-d", "", system, MODULE.format("*")).split()
    (module,) = [name for name in names if name.endswith("e100.ko.xz")]
    tool("unsquashfs", "-q", "-d", folder / "taken", system, module.lstrip("/"), FIRMWARE)
    for source, target in (
        (module.lstrip("/"), "drivers/e100.ko.xz"),
        (FIRMWARE, "firmware/e100/d102e_ucode.bin"),
    ):
        (folder / target).parent.mkdir(parents=True)
        (folder / "taken" / source).rename(folder / target)
    more = folder / "more"
    for name, text in (("scripts/init-bottom/hide", HIDE), ("conf/conf.d/hide", APPEND)):
        (more / name).parent.mkdir(parents=True)
        (more / name).write_text(text)
        (more / name).chmod(0o755)
    initrd.chmod(0o600)
    pad = -initrd.stat().st_size % 4
    with initrd.open("ab") as file:
        file.write(bytes(pad))
        file.flush()
        files = "\n".join(str(path.relative_to(more)) for path in sorted(more.rglob("*")))
        cpio = ["cpio", "--quiet", "-o", "-H", "newc"]
        subprocess.run(cpio, input=files.encode(), stdout=file, cwd=more, check=True)


def test_a_driver_and_firmware_that_the_image_lacks_come_from_a_stick(
    iso, built, converter, tmp_path
):
    """An i82551: its driver asks for firmware before the card is brought up, and insists."""
    source = built(Spec("iso-stick", table="gpt", volumes=(("ext4", 64),))).path
    words = [*direct(iso, tmp_path), *cdrom(iso), *host_network("i82551")]
    hidden_from_the_image(iso, tmp_path, tmp_path / "live/initrd")
    tell = f"ls /{MODULE.format('*')} /{FIRMWARE} > /dev/ttyS0 2>&1; {TELL}"
    hardware = Hardware("bios", 1024, words)
    document = migrated(
        hardware, source, "virtio-blk-pci", converter, tmp_path, post=tell, all_blocks=True
    )
    assert compare_images(source, image_of(document)).same
    said = (tmp_path / "serial.log").read_text(errors="replace")
    assert "loaded drivers/e100.ko.xz" in said and "loaded firmware/e100/d102e_ucode.bin" in said
    assert len(re.findall(r"cannot access .*(?:e100.ko.xz|d102e_ucode.bin)", said)) == 2
