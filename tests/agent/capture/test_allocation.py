# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of real file systems, made here; a copy that holds the mapped blocks only must be whole."""

import os
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.allocation import read_map, used_extents
from agent.capture.chunkset import ChunkSet
from p2v.model.errors import ToolError
from p2v.wire.chunk import CHUNK_SIZE

MiB = 1 << 20
START = 3 * MiB + 512 * 63  # of the partition: aligned to nothing but sectors
MAKE = {
    "ext4": ("mkfs.ext4", "-qF"),
    "xfs": ("mkfs.xfs", "-qf"),
    "btrfs": ("mkfs.btrfs", "-qf"),
    "ntfs": ("mkfs.ntfs", "-qfF"),
    "vfat": ("mkfs.fat", "-F32"),
}
CHECK = {
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check"),
    "ntfs": ("ntfsfix", "-n"),
    "vfat": ("fsck.fat", "-n"),
}
SIZES = {"xfs": 320 * MiB, "btrfs": 160 * MiB}
TAIL = b"behind the file system"


@pytest.fixture
def volume(tmp_path, run):
    """An image file that holds a file system of the kind at START, and something behind it."""

    def make(kind):
        size = SIZES.get(kind, 96 * MiB)
        path = tmp_path / "volume"
        with path.open("wb") as file:
            file.truncate(size)
        run(*MAKE[kind], path)
        return path, size

    return make


@contextmanager
def opened(kind, path, point, run):
    point.mkdir(exist_ok=True)
    if kind == "vfat":  # many kernels are built without it
        yield None
        return
    run(*(["ntfs-3g"] if kind == "ntfs" else ["mount", "-o", "loop"]), path, point)
    try:
        yield point
    finally:
        run("umount", point)


def write_files(kind, path, point, run, folder):
    """Fill the file system and free a part of it again, so that used and free blocks mix."""
    rng = random.Random(kind)
    names = [f"f{i}" for i in range(24)]
    for name in names:
        (folder / name).write_bytes(rng.randbytes(rng.randrange(1, 1_500_000)))
    with opened(kind, path, point, run) as root:
        for name in names:
            if root is None:
                run("mcopy", "-i", path, folder / name, f"::{name}")
            else:
                shutil.copy(folder / name, root / name)
    with opened(kind, path, point, run) as root:
        for name in names[::3]:
            if root is None:
                run("mdel", "-i", path, f"::{name}")
            else:
                (root / name).unlink()
    return {n: (folder / n).read_bytes() for i, n in enumerate(names) if i % 3}


def read_files(kind, path, point, run, folder, names):
    with opened(kind, path, point, run) as root:
        if root is not None:
            return {name: (root / name).read_bytes() for name in names}
        for name in names:
            run("mcopy", "-n", "-o", "-i", path, f"::{name}", folder / name)
        return {name: (folder / name).read_bytes() for name in names}


def disk_around(path: Path, size: int, disk: Path) -> int:
    """Put the volume at START of the file `disk`, with a few bytes more in its partition."""
    length = size + 8 * MiB
    with disk.open("wb") as out, path.open("rb") as volume:
        out.truncate(START + length + MiB)
        out.seek(START)
        shutil.copyfileobj(volume, out, MiB)
        out.write(TAIL)
    return length


def copy_used(allocation, disk: Path, target: Path) -> None:
    with disk.open("rb") as source, target.open("wb") as out:
        out.truncate(disk.stat().st_size)
        for extent in allocation.extents():
            source.seek(extent.offset)
            out.seek(extent.offset)
            out.write(source.read(extent.length))


@pytest.mark.root
@pytest.mark.parametrize("kind", MAKE)
def test_the_mapped_blocks_are_the_whole_file_system(kind, volume, tmp_path, run):
    path, size = volume(kind)
    (folder := tmp_path / "files").mkdir()
    files = write_files(kind, path, tmp_path / "m", run, folder)
    disk, target = tmp_path / "disk", tmp_path / "target"
    length = disk_around(path, size, disk)

    allocation = used_extents(disk, START, length, kind)

    assert allocation.reason == ""
    assert sum(len(data) for data in files.values()) < allocation.used < length * 0.8
    assert str(disk) not in run("losetup", "--list", "--output", "BACK-FILE")
    copy_used(allocation, disk, target)
    with target.open("rb") as file:
        file.seek(START)
        path.write_bytes(file.read(size))
        assert file.read(len(TAIL)) == TAIL, "what lies behind the file system was lost"
    run(*CHECK[kind], path)
    assert read_files(kind, path, tmp_path / "m", run, folder, files) == files


@pytest.mark.root
def test_exfat_has_a_map_too(tmp_path, run):
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(64 * MiB)
    run("mkfs.exfat", path)
    allocation = used_extents(path, 0, 64 * MiB, "exfat")
    assert allocation.reason == ""
    assert 0 < allocation.used < 8 * MiB
    with path.open("r+b") as file:
        file.seek(106)
        file.write(b"\x02\0")  # VolumeFlags: VolumeDirty
    assert used_extents(path, 0, 64 * MiB, "exfat").reason == "it was not unmounted cleanly"


# --- maps that must not be believed --------------------------------------------------------------


REFUSED = {
    "ext4": "its journal has not been replayed (needs_recovery)",
    "xfs": "its log has not been replayed",
    "btrfs": "its log tree has not been replayed",
}


@pytest.mark.root
@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_system_copied_while_mounted_is_copied_whole(
    kind, volume, tmp_path, run, loop, mount
):
    """As after a crash: fsynced, and so promised to be there, but only by way of the journal."""
    path, size = volume(kind)
    crashed, data = tmp_path / "crashed", os.urandom(6 * MiB)
    with loop(path) as device, mount(device, tmp_path / "m") as root:
        run("sync")
        with (root / "file").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            shutil.copyfile(path, crashed)
    allocation = used_extents(crashed, 0, size, kind)
    assert allocation.reason == REFUSED[kind]
    assert allocation.used == size
    assert [(e.offset, e.length) for e in allocation.extents()] == [(0, size)]
    # The crash did happen: the file is there once the journal is replayed.
    with loop(crashed) as device, mount(device, tmp_path / "m") as root:
        assert (root / "file").read_bytes() == data
    assert used_extents(crashed, 0, size, kind).reason == ""


@pytest.mark.root
def test_partclone_alone_would_have_lost_the_file(volume, tmp_path, run, loop, mount):
    """Why the check before the map exists: the map of such an ext4 lacks the file's blocks."""
    path, size = volume("ext4")
    crashed = tmp_path / "crashed"
    with loop(path) as device, mount(device, tmp_path / "m") as root:
        run("sync")
        with (root / "file").open("wb") as file:
            file.write(os.urandom(16 * MiB))
            file.flush()
            os.fsync(file.fileno())
            shutil.copyfile(path, crashed)
    argv = ("partclone.ext4", "-D", "-q", "-L", "/dev/null", "-o", "-", "-s")
    before = read_map(run(*argv, crashed).encode().splitlines(), ChunkSet(0, size), 0, size)
    with loop(crashed) as device, mount(device, tmp_path / "m"):
        pass
    after = read_map(run(*argv, crashed).encode().splitlines(), ChunkSet(0, size), 0, size)
    assert after - before > 8 * MiB


@pytest.mark.root
def test_a_dirty_ntfs_is_copied_whole(volume, run):
    path, size = volume("ntfs")
    run("ntfsfix", path)  # marks it for chkdsk
    assert used_extents(path, 0, size, "ntfs").reason == (
        "it is marked dirty: Windows would run chkdsk"
    )


@pytest.mark.root
def test_an_ntfs_of_a_hibernated_windows_is_copied_whole(volume, tmp_path, run):
    path, size = volume("ntfs")
    with opened("ntfs", path, tmp_path / "m", run) as root:
        for i in range(300):  # enough for the directory to outgrow its record
            (root / f"file number {i}").touch()
        (root / "hiberfil.sys").write_bytes(b"hibr" + bytes(100_000))
    assert "Fast Startup" in used_extents(path, 0, size, "ntfs").reason
    with opened("ntfs", path, tmp_path / "m", run) as root, pytest.raises(OSError):
        (root / "refused").touch()  # ntfs-3g sees it too
    run("ntfs-3g", "-o", "remove_hiberfile", path, tmp_path / "m")
    run("umount", tmp_path / "m")
    assert used_extents(path, 0, size, "ntfs").reason == ""


def test_a_dirty_fat_is_copied_whole(volume):
    path, size = volume("vfat")
    with path.open("r+b") as file:
        file.seek(0x41)
        file.write(b"\x01")
    assert used_extents(path, 0, size, "vfat").reason == "it was not unmounted cleanly"


@pytest.mark.root
def test_a_mounted_file_system_has_no_map_until_it_is_read_only(volume, tmp_path, run, loop, mount):
    path, size = volume("ext4")
    with loop(path) as device, mount(device, tmp_path / "m"):
        assert used_extents(device, 0, size, "ext4").reason == "it is mounted read-write"
        run("mount", "-o", "remount,ro", tmp_path / "m")
        assert used_extents(device, 0, size, "ext4").reason == ""


def test_what_partclone_does_not_know_is_copied_whole(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(bytes(MiB))
    for content in ("LVM2_member", "f2fs", ""):
        allocation = used_extents(path, 0, MiB, content)
        assert allocation.reason.startswith("there is no allocation map for ")
        assert allocation.used == MiB


def test_a_file_system_that_is_not_there_is_copied_whole(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(random.Random(0).randbytes(MiB))
    for content in MAKE:
        assert used_extents(path, 0, MiB, content).reason
    assert used_extents(tmp_path / "gone", 0, MiB, "ext4").reason


@pytest.mark.root
def test_a_file_system_larger_than_its_partition_is_copied_whole(volume):
    path, size = volume("ext4")
    os.truncate(path, size // 2)
    assert used_extents(path, 0, size // 2, "ext4").reason


# --- the map's text ------------------------------------------------------------------------------

HEAD = [b"# Domain logfile created by unset_name v0.3.23\n", b"0x00000000     ?\n"]


@given(
    st.lists(st.tuples(st.integers(1, 3 * CHUNK_SIZE), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 2 * CHUNK_SIZE),
    st.integers(0, CHUNK_SIZE),
)
def test_a_map_fills_the_chunks_that_its_used_ranges_touch(ranges, offset, tail):
    lines, at, used, touched = list(HEAD), 0, 0, set()
    for length, is_used in [*ranges, (1, True)]:
        lines.append(f"0x{at:08X}  0x{length:08X}  {'+' if is_used else '?'}\n".encode())
        if is_used:
            used += length
            first, last = (offset + at) // CHUNK_SIZE, (offset + at + length - 1) // CHUNK_SIZE
            touched |= set(range(first, last + 1))
        at += length
    if tail:
        used += tail
        first, last = (offset + at) // CHUNK_SIZE, (offset + at + tail - 1) // CHUNK_SIZE
        touched |= set(range(first, last + 1))
    chunks = ChunkSet(offset, at + tail)
    assert read_map(lines, chunks, offset, at + tail) == used
    assert {c for first, n in chunks.runs() for c in range(first, first + n)} == touched


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"0x00000000  0x00001000  ?"],
        [b"0x00000000  0x00001000  +", b"0x00002000  0x00001000  +"],
        [b"0x00001000  0x00001000  +"],
        [b"0x00000000  0x00001000  +", b"0x00000000  0x00001000  +"],
        [b"0x00000000  0xFFFFFFFFFFFFFFFF  +"],
        [b"0x00000000  0x00001000  ="],
        [b"Error exit"],
        [b"0x00000000  0x00001000  + 0x00"],
    ],
)
def test_a_map_that_makes_no_sense_is_refused(lines):
    with pytest.raises(ToolError, match="its map makes no sense"):
        read_map([*HEAD, *lines], ChunkSet(0, MiB), 0, MiB)
