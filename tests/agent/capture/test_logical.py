# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks with LVM on them: all that counts is copied, and little more."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from agent.capture import logical
from agent.capture.layout import Kind, Layout, prepare
from agent.capture.logical import read_held
from agent.capture.source import Source
from agent.inventory.collect import collect
from agent.inventory.content import Content
from agent.inventory.volume.lvm import Physical, read_physical
from agent.inventory.volume.window import open_window
from agent.mounts import device_number
from agent.plan import Choices, make_plan
from p2v.model.plan import Plan, Treatment
from tests.agent.inventory.test_lvm import OPTIONS

pytestmark = pytest.mark.root

MiB = 1 << 20
START = 63 * 512  # as of old: no extent is aligned
SIZE, PV_SIZE = 900 * MiB, 880 * MiB
DATA = START + MiB
STALE = b"stale: nobody has this any more\n"
# Volumes, in the order of their extents: name, what it holds, MiB.
VOLUMES = (
    ("root", "ext4", 128), ("swap", "swap", 64), ("gone", "random", 60), ("data", "xfs", 320),
    ("raw", "random", 12), ("tail", "random", 8),
)  # fmt: skip


@pytest.fixture(scope="module")
def disk(tmp_path_factory, run, loop, mount) -> Path:
    """A disk in an MBR; `raw` is in two pieces, as `tail` was behind it when it grew."""
    path = tmp_path_factory.mktemp("lvm") / "disk.img"
    path.write_bytes(STALE * (SIZE // len(STALE)))
    with loop(path) as device:
        run("sh", "-c", f"echo 'start=63, size={PV_SIZE // 512}, type=8e' | sfdisk -q {device}")
    with loop("-o", START, "--sizelimit", PV_SIZE, path) as device:
        words = (*OPTIONS, "--devices", device)
        run("pvcreate", *words, device)
        run("vgcreate", *words, "group", device)
        for name, _, size in VOLUMES:
            run("lvcreate", *words, "-an", "-Zn", "-n", name, "-L", f"{size}m", "group")
        run("lvremove", *words, "group/gone")
        run("lvextend", *words, "-L", "36m", "group/raw")
    at = DATA
    for name, kind, size in VOLUMES:
        with loop("-o", at, "--sizelimit", size * MiB, path) as device:
            if kind == "random":
                device.write_bytes(random.Random(name).randbytes(size * MiB))
            else:
                run(f"mk{'' if kind == 'swap' else 'fs.'}{kind}", device)
            if kind in ("ext4", "xfs"):
                with mount(device, path.with_name(name)) as point:
                    fill(point)
        at += size * MiB
    return path


def fill(point: Path) -> None:
    for number in range(12):
        (point / f"file{number}").write_bytes(random.Random(number).randbytes(MiB + number))
    os.sync()
    for number in range(0, 12, 3):
        (point / f"file{number}").unlink()


def physical_of(disk: Path) -> Physical:
    with open_window(disk, START, PV_SIZE) as window:
        return read_physical(window)


def plan_of(disk: Path) -> Plan:
    return make_plan(collect((str(disk),)), Choices(disks=(str(disk),)))


def copied(layout: Layout, source: Path, target: Path) -> int:
    """Carry out a layout; return how many bytes were read for it."""
    read = 0
    with source.open("rb") as disk, target.open("wb") as image:
        image.truncate(layout.size)
        for piece in layout.pieces():
            data = bytearray(piece.data)
            if piece.kind is Kind.READ:
                disk.seek(piece.offset)
                data = bytearray(disk.read(piece.length))
                read += len(data)
                piece.apply(piece.offset, data)
            image.seek(piece.offset)
            image.write(data)
    return read


def place(name: str) -> tuple[int, int]:
    at = DATA
    for other, _, size in VOLUMES:
        if other == name:
            return at, size * MiB
        at += size * MiB
    raise KeyError(name)


@pytest.fixture(scope="module")
def image(disk, tmp_path_factory) -> tuple[Path, Layout, int]:
    """The disk's image, its layout, and how many bytes were read."""
    target = tmp_path_factory.mktemp("image") / "disk.raw"
    (planned,) = plan_of(disk).disks
    with Source(disk) as source:
        layout = prepare(planned, source)
    return target, layout, copied(layout, disk, target)


def test_the_plan_says_what_is_not_copied(disk):
    plan = plan_of(disk)
    ((partition,),) = (planned.partitions for planned in plan.disks)
    assert partition.treatment is Treatment.USED
    assert "free extents" in partition.reason
    used = sum(size for name, _, size in VOLUMES if name != "gone") + 24  # which `raw` grew by
    assert used * MiB <= plan.disks[0].used < (used + 12) * MiB


def test_it_is_found_where_it_is(disk):
    held = read_held(disk, START, PV_SIZE)
    volumes = {volume.name: volume for volume in held.volumes}
    assert {name: volume.content for name, volume in volumes.items()} == {
        "root": "ext4", "swap": "swap", "data": "xfs", "raw": "", "tail": ""
    }  # fmt: skip
    assert [(run.at, run.length) for run in volumes["raw"].segments] == [
        (0, 12 * MiB),
        (12 * MiB, 24 * MiB),
    ]
    gone, _ = place("gone")
    assert any(free.offset <= gone + 30 * MiB < free.end for free in held.free)
    assert volumes["root"].segments[0].offset == DATA and volumes["root"].node is None


def active(sysfs: Path, uuid: str, size: int, *below: tuple[str, int]) -> None:
    """Let sysfs have a volume over partitions: the disk's number, and the byte on it."""
    node = sysfs / "block/dm-7"
    (node / "slaves").mkdir(parents=True)
    (node / "dm").mkdir()
    (node / "dm/uuid").write_text(f"{uuid}\n")
    (node / "size").write_text(f"{size // 512}\n")
    for name, (disk, start) in zip("ab", below, strict=False):
        part = sysfs / f"devices/sd{name}/sd{name}1"
        part.mkdir(parents=True)
        (part / "partition").write_text("1\n")
        (part / "start").write_text(f"{start // 512}\n")
        (part.parent / "dev").write_text(f"{disk}\n")
        (node / "slaves" / part.name).symlink_to(part)


@pytest.mark.parametrize(
    ("more", "start", "known"),
    [(0, START, True), (512, START, False), (0, START + 512, False)],
    ids=["here", "of another size", "elsewhere"],
)
def test_a_volume_that_is_active_is_looked_at_through_its_device(
    disk, loop, tmp_path, monkeypatch, more, start, known
):
    uuid, size = next(
        (volume.uuid, volume.size) for volume in physical_of(disk).volumes if volume.name == "root"
    )
    asked = []
    monkeypatch.setattr(
        logical, "read_content", lambda *args: asked.append(args[:2]) or Content("ext4")
    )
    with loop(disk) as device:
        number = device_number(device)
        assert number is not None
        active(tmp_path, uuid, size + more, ("8:0", 0), (f"{number[0]}:{number[1]}", start))
        held = read_held(device, START, PV_SIZE, tmp_path)
    root = next(volume for volume in held.volumes if volume.name == "root")
    assert root.node == Path("/dev/dm-7")
    assert ((Path("/dev/dm-7"), 0) in asked) == known
    assert root.content == ("ext4" if known else "")
    if not known:  # its map is nobody's
        (allocation,) = root.used(disk, ())
        assert allocation.chunks is None and allocation.reason


def test_little_more_is_read_than_counts(image):
    _, layout, read = image
    assert [note.partition(": ")[2] for note in layout.notes] == [
        "raw: every block is copied: it lies in several pieces, and is not active",
        "tail: every block is copied: there is no allocation map for unknown contents",
    ]
    assert read < 180 * MiB, f"{read / MiB:.0f} MiB"


@pytest.mark.parametrize("name", ["root", "data"])
def test_the_file_systems_are_whole(disk, image, name, run, loop, mount, tmp_path):
    target, _, _ = image
    at, size = place(name)
    checks = {"root": ("e2fsck", "-fn"), "data": ("xfs_repair", "-n")}
    with loop("-r", "-o", at, "--sizelimit", size, target) as copy:
        run(*checks[name], copy)
        with (
            loop("-r", "-o", at, "--sizelimit", size, disk) as original,
            mount(original, tmp_path / "a", "-o", "ro") as one,
        ):
            known = {path.name: path.read_bytes() for path in one.glob("file*")}
        with mount(copy, tmp_path / "b", "-o", "ro") as other:
            assert {path.name: path.read_bytes() for path in other.glob("file*")} == known
    assert len(known) == 8


def test_what_has_no_map_is_what_it_was(disk, image):
    target, _, _ = image
    held = read_held(disk, START, PV_SIZE)
    with disk.open("rb") as one, target.open("rb") as other:
        ranges = [(0, DATA), (START + PV_SIZE, SIZE - START - PV_SIZE)]
        ranges += [(run.offset, run.length) for volume in held.volumes if not volume.content
                   for run in volume.segments]  # fmt: skip
        for at, length in ranges:
            one.seek(at)
            other.seek(at)
            assert one.read(length) == other.read(length), f"at {at}"


def test_what_nobody_has_is_not_in_the_image(disk, image):
    target, _, _ = image
    held = read_held(disk, START, PV_SIZE)
    with target.open("rb") as file:
        for free in held.free:
            file.seek(free.offset + MiB)
            assert not any(file.read(free.length - 2 * MiB))


def test_lvm_finds_the_same_in_the_image(disk, image, run, loop):
    target, _, _ = image
    said = []
    for path in (disk, target):
        with loop("-r", "-o", START, "--sizelimit", PV_SIZE, path) as device:
            words = (*OPTIONS, "--devices", device, "--noheadings", "-o", "lv_name,lv_size,lv_uuid")
            said.append(run("lvs", *words))
    assert said[0] == said[1] != ""


def test_a_volume_group_that_nobody_understands_is_copied_whole(disk, tmp_path):
    broken = tmp_path / "disk.img"
    broken.write_bytes(disk.read_bytes())
    with broken.open("r+b") as file:
        file.seek(START + 4096 + 512)
        text = file.read(MiB - 4608)
        file.seek(START + 4096 + 512)
        file.write(text.replace(b"striped", b"stripex"))
    (planned,) = plan_of(disk).disks
    with Source(broken) as source:
        layout = prepare(planned, source)
    assert layout.regions == ()
    assert [note.partition(": ")[2] for note in layout.notes] == [
        "every block is copied: The volume's structures cannot be understood: "
        "the checksum of LVM's metadata is wrong"
    ]


def test_a_file_system_that_needs_recovery_is_copied_and_named(disk, tmp_path, run):
    dirty = tmp_path / "disk.img"
    dirty.write_bytes(disk.read_bytes())
    at, _ = place("root")
    with dirty.open("r+b") as file:  # ext4's flag for a journal that is to be replayed
        file.seek(at + 1024 + 0x60)
        flags = file.read(1)[0]
        file.seek(at + 1024 + 0x60)
        file.write(bytes([flags | 4]))
    (planned,) = plan_of(disk).disks
    with Source(dirty) as source:
        layout = prepare(planned, source)
    assert [note for note in layout.notes if "root: every block is copied" in note]
    assert not any(region.offset == at for region in layout.regions)
