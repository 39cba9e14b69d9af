# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that start from the live image: their disks, their answers, and what they told."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.physical import Hardware, disk, switched_on
from tests.e2e.running import Converter, tool
from tests.e2e.sources import digest_of

MIGRATION_S = 1500.0
TELL = "journalctl -b -o short-monotonic > /dev/ttyS0; systemctl poweroff"


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
        "post": TELL,
        "fail": TELL,
        **more,
    }


def stick(folder: Path, said: dict[str, object]) -> list[str]:
    """Return QEMU's words for a stick labelled P2VCONF with an answer file.

    Folders `drivers` and `firmware` in `folder` are put onto it, too.
    """
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in said.items()]
    (folder / "p2v.toml").write_text("".join(lines))
    image = folder / "answers.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    tool("mformat", "-i", image, "-v", "P2VCONF", "::")
    tool("mcopy", "-i", image, folder / "p2v.toml", "::/")
    for more in ("drivers", "firmware"):
        if (folder / more).is_dir():
            tool("mcopy", "-s", "-i", image, folder / more, "::/")
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
    evidence = evidence_of(document)
    names = tool("tar", "-tzf", evidence).split()
    assert {"evidence/dmesg.txt", "evidence/inventory.json", "evidence/lsblk.json"} <= {*names}
    assert str(said["token"]) not in tool("tar", "-xOzf", evidence) + told
    return document


def evidence_of(document: dict) -> Path:
    return image_of(document).parent / "evidence.tar.gz"


def inventory_of(document: dict) -> tuple[dict, dict]:
    """Return what the machine said of itself, and of the one disk that was migrated."""
    inventory = json.loads(tool("tar", "-xOzf", evidence_of(document), "evidence/inventory.json"))
    named = document["plan"]["disks"][0]["name"]
    (found,) = [disk for disk in inventory["disks"] if disk["name"] == named]
    return inventory, found


def image_of(document: dict) -> Path:
    (image,) = document["images"]
    return Path(image)
