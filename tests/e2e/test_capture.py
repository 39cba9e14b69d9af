# SPDX-License-Identifier: GPL-3.0-or-later
"""What is captured of a disk where it is more than 'the used blocks of everything'."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v.model.units import MiB
from tests.e2e import images
from tests.e2e.running import Agent, home, tool
from tests.e2e.sources import (
    STALE,
    Spec,
    assert_same_files,
    assert_same_volumes,
    attached,
    digest_of,
    files_of,
    mounted,
    signature_of,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SMALL = Spec("small", 512, "gpt", (("ext4", 48), ("swap", 8), ("ext4", 32)), rest=512)
SECRET = b"a password that was swapped out"


@contextmanager
def writable_copy(source: Path, room: Path) -> Iterator[Path]:
    copy = room / "copy.img"
    tool("cp", "--sparse=always", source, copy)
    yield copy
    copy.unlink()


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def read_at(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def test_an_excluded_partition_reads_as_zeros_and_all_else_is_identical(built, image_of, room):
    disk = built(SMALL)
    left_out = disk.volumes[2]
    with attached(disk.path, 512) as loop:
        image, _ = image_of(loop, "--all-blocks", "--exclude", f"{loop}p3")
    images.check(image, 512)
    images.compare(image, disk.path, 512, (left_out.start, left_out.size))
    raw = images.unpack(image, 512, room)
    assert read_at(disk.path, left_out.start, left_out.size).strip(b"\0")
    assert not read_at(raw, left_out.start, left_out.size).strip(b"\0")


def test_free_blocks_are_not_copied_though_the_disk_still_has_what_was_in_them(
    built, image_of, room
):
    disk = built(SMALL)
    image, document = image_of(disk.path)
    raw = images.unpack(image, 512, room)
    first = disk.volumes[0]
    there = read_at(disk.path, first.start, first.size).count(STALE)
    arrived = read_at(raw, first.start, first.size).count(STALE)
    assert there > 1.5 * arrived > 0, "chunks are larger than what is free: some comes along"
    assert document["counters"]["read"] < 0.75 * disk.spec.size


def test_swap_keeps_its_identity_and_loses_its_contents(built, image_of, room):
    disk = built(SMALL)
    swap = disk.volumes[1]
    with writable_copy(disk.path, room) as copy:
        write_at(copy, swap.start + 2 * MiB, SECRET)
        image, document = image_of(copy)
        raw = images.unpack(image, 512, room)
        assert signature_of(raw, 512, swap) == signature_of(copy, 512, swap)
    assert SECRET not in read_at(raw, swap.start, swap.size)
    assert document["notes"] == []


def test_a_hibernated_swap_is_noted_and_becomes_a_swap_again(built, image_of, room):
    disk = built(SMALL)
    swap = disk.volumes[1]
    with writable_copy(disk.path, room) as copy:
        write_at(copy, swap.start + 4086, b"S1SUSPEND\0")
        assert signature_of(copy, 512, swap)["TYPE"] == "swsuspend"
        image, document = image_of(copy)
        raw = images.unpack(image, 512, room)
    assert signature_of(raw, 512, swap) == signature_of(disk.path, 512, swap)
    (note,) = document["notes"]
    assert "hibernation" in note
    assert ":2" in note, "the note names the partition"


def test_a_disk_that_is_mounted_read_only_is_captured(built, image_of, room):
    disk = built(SMALL)
    before = digest_of(disk.path)
    with attached(disk.path, 512) as loop, mounted(f"{loop}p1", "ext4", room / "mounted"):
        image, document = image_of(loop)
        assert document["notes"] == []
    assert digest_of(disk.path) == before
    assert_same_volumes(images.unpack(image, 512, room), disk, room)


def test_an_image_file_is_captured_like_the_disk_that_it_holds(built, image_of, room):
    disk = built(SMALL)
    before = digest_of(disk.path)
    image, _ = image_of(disk.path, "--format", "qcow2")
    assert digest_of(disk.path) == before
    images.check(image, 512)
    assert_same_volumes(images.unpack(image, 512, room), disk, room)


def test_the_image_file_of_a_4k_disk_keeps_its_sectors(built, image_of, room):
    spec = Spec("small4k", 4096, "gpt", (("ext4", 48), ("swap", 8)), rest=4096)
    disk = built(spec)
    image, _ = image_of(disk.path)
    assert images.info(image)["logical_sector"] == 4096
    assert_same_volumes(images.unpack(image, 4096, room), disk, room)


def test_a_file_system_that_was_not_unmounted_loses_nothing(
    built, image_of, shared_converter, room
):
    """Fsynced files may be in blocks that the bitmap on the disk still calls free."""
    disk = built(SMALL)
    first = disk.volumes[0]
    crashed = room / "crashed.img"
    with writable_copy(disk.path, room) as copy, attached(copy, 512) as loop:
        point = room / "mounted"
        with mounted(f"{loop}p1", "ext4", point, ro=False):
            (point / "late").write_bytes(os.urandom(4 * MiB))
            fd = os.open(point / "late", os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            tool("blockdev", "--flushbufs", loop)
            tool("cp", "--sparse=always", copy, crashed)
            late = (point / "late").read_bytes()
    image, document = image_of(crashed)
    (warning,) = shared_converter.show(document["migration"])["plan"]["warnings"]
    assert "crashed.img:1" in warning
    assert "every block is copied" in warning
    raw = images.unpack(image, 512, room)
    images.compare(image, crashed, 512, *((each.start, each.size) for each in disk.volumes[1:]))
    with attached(raw, 512) as loop:
        tool("e2fsck", "-fy", f"{loop}p1", codes=(0, 1))
        with mounted(f"{loop}p1", "ext4", room / "arrived") as point:
            assert (point / "late").read_bytes() == late
    found = files_of(raw, 512, first, room)
    del found["late"]
    assert_same_files(found, disk.manifests[1])


def test_two_disks_are_one_migration(built, shared_agent, room):
    disk = built(SMALL)
    with writable_copy(disk.path, room) as copy:
        write_at(copy, 0, b"another")
        document = shared_agent.migrate(disk.path, "--disk", copy, "--all-blocks")
        one, other = (Path(image) for image in document["images"])
        images.compare(one, disk.path, 512)
        images.compare(other, copy, 512)
        assert one != other
        one.unlink()
        other.unlink()


@pytest.mark.parametrize("form", ["vhdx", "qcow2"])
def test_the_embedded_converter_writes_the_same_disk(built, shared_agent, room, form):
    disk = built(SMALL)
    folder = room / "images"
    folder.mkdir()
    document = shared_agent.migrate(disk.path, "--to", folder, "--format", form, "--all-blocks")
    image = Path(document["images"][0])
    assert image.is_relative_to(folder)
    images.check(image, 512)
    images.compare(image, disk.path, 512)


def test_a_code_pairs_once_and_is_not_needed_again(built, shared_converter, room):
    disk = built(SMALL)
    code = shared_converter.code()
    Agent(home(room / "home", P2V_CODE=code), shared_converter.address).migrate(disk.path)
    again = Agent(home(room / "home"), shared_converter.address)
    again.migrate(disk.path)
    stranger = Agent(home(room / "other", P2V_CODE=code), shared_converter.address)
    assert stranger.migrate(disk.path, code=10)["error"]["code"] == "pairing-failed"


def test_a_dry_run_writes_nothing_anywhere(built, shared_agent, shared_converter, room):
    disk = built(SMALL)
    before, known = digest_of(disk.path), shared_converter.migrations()
    folder = room / "images"
    folder.mkdir()
    for target in ("--to", folder), ("--server", shared_converter.address):
        document = shared_agent.migrate(disk.path, *target, "--dry-run")
        treatments = [part["treatment"] for part in document["plan"]["disks"][0]["partitions"]]
        assert treatments == ["used", "swap", "used"]
    assert list(folder.iterdir()) == []
    assert shared_converter.migrations() == known
    assert digest_of(disk.path) == before


def test_a_plan_that_was_reviewed_runs_as_it_is(built, shared_agent, room):
    disk = built(SMALL)
    made = shared_agent.run("plan", "--disk", disk.path, "--name", "planned", "--all-blocks")
    assert made.code == 0, made.err
    plan = room / "plan.toml"
    plan.write_text(made.out)
    server = ("--server", shared_agent.address)
    done = shared_agent.run("migrate", "--plan", plan, *server, "--json", "--progress", "none")
    assert done.code == 0, done.out + done.err
    assert done.json["migration"].startswith("planned-")
    image = Path(done.json["images"][0])
    images.compare(image, disk.path, 512)
    image.unlink()
