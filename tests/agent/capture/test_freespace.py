# SPDX-License-Identifier: GPL-3.0-or-later
"""Free space as the file systems' own tools list it: partclone sees the same, lies are refused."""

import os
import random
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.allocation import _by_partclone, used_extents
from agent.capture.chunkset import ChunkSet
from agent.capture.freespace import ext_free, read_dumpe2fs, read_freesp, xfs_free
from p2v.model.errors import ToolError
from p2v.model.units import MiB
from p2v.wire.chunk import CHUNK_SIZE

SIZE = 700 * MiB
KINDS = {
    "ext2": ("mkfs.ext2", "-q", "-F"),
    "ext3": ("mkfs.ext3", "-q", "-F"),
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "ext4 1K": ("mkfs.ext4", "-q", "-F", "-b", "1024"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "xfs 1K": ("mkfs.xfs", "-q", "-f", "-b", "size=1024"),
}


@pytest.fixture
def worn(tmp_path, run, loop, mount):
    """A file system in which files of every size came and went."""

    def make(kind):
        path = tmp_path / "volume"
        with path.open("wb") as file:
            file.truncate(SIZE)
        run(*KINDS[kind], path)
        rng = random.Random(kind)
        with loop(path) as device, mount(device, tmp_path / "m") as root:
            for name in range(400):
                (root / str(name)).write_bytes(os.urandom(rng.randrange(1, 900_000)))
            for name in rng.sample(range(400), 250):
                (root / str(name)).unlink()
        return path

    return make


def chunks(allocation):
    return set(chain.from_iterable(range(f, f + n) for f, n in allocation.chunks.runs()))


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_partclone_sees_the_same_blocks_in_use(kind, worn):
    path = worn(kind)
    content = kind.split()[0]
    mine = used_extents(path, 0, SIZE, content)
    theirs = _by_partclone(content, path, False, 0, SIZE)
    assert mine.reason == ""
    assert 0 < theirs.used < SIZE // 2
    assert chunks(mine) >= chunks(theirs)
    assert len(chunks(mine) - chunks(theirs)) <= 8  # extents listed apart that meet inside a chunk


@pytest.mark.root
def test_clusters_of_blocks_are_copied_whole(tmp_path, run):
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", "-O", "bigalloc", path)
    with pytest.raises(ToolError, match="clusters"):
        list(ext_free(path))
    assert "calls nothing used" in used_extents(path, 0, SIZE, "ext4").reason  # nor can partclone


@pytest.mark.parametrize("lister", [ext_free, xfs_free])
def test_noise_is_no_file_system(lister, tmp_path):
    path = tmp_path / "noise"
    path.write_bytes(os.urandom(MiB))
    with pytest.raises(ToolError):
        list(lister(path))


XFS = b"""blocksize = 4096
agblocks = 1000
agcount = 4
dblocks = 3900
fdblocks = 300
   agno    agbno      len
"""


def test_extents_are_placed_by_their_group():
    assert list(read_freesp((XFS + b"0 10 5\n3 899 1\n").splitlines(True))) == [
        (10 * 4096, 5 * 4096),
        (3899 * 4096, 4096),
    ]


@pytest.mark.parametrize(
    "line",
    [b"0 10 301", b"4 0 1", b"0 999 2", b"3 899 2", b"0 5 0", b"0 99999999999999999999 1"],
    ids=["more than counted", "no group", "over the group", "over the end", "empty", "huge"],
)
def test_an_extent_that_cannot_be_is_refused(line):
    with pytest.raises(ToolError):
        list(read_freesp((XFS + line + b"\n").splitlines(True)))


def test_extents_before_the_geometry_are_refused():
    with pytest.raises(ToolError):
        list(read_freesp([b"0 10 5\n"]))


EXT = b"""Filesystem features:      has_journal extent
Block count:              1000
Free blocks:              20
First block:              0
Block size:               1024
"""


def test_ranges_and_single_blocks_are_read():
    lines = (EXT + b"Group 0: (Blocks 0-999)\n  Free blocks: 7, 9-12\n").splitlines(True)
    assert list(read_dumpe2fs(lines)) == [(7 * 1024, 1024), (9 * 1024, 4 * 1024)]


@pytest.mark.parametrize("text", [b"5-4", b"999-1000", b"1-30", b"x", b"1-", b"-1"])
def test_ranges_that_cannot_be_are_refused(text):
    with pytest.raises(ToolError):
        list(read_dumpe2fs((EXT + b"  Free blocks: " + text + b"\n").splitlines(True)))


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_garbage_lists_nothing_outside(lines):
    for head, reader in ((XFS, read_freesp), (EXT, read_dumpe2fs)):
        try:
            found = list(reader([*head.splitlines(True), *lines]))
        except ToolError:
            continue
        assert all(start >= 0 and start + length <= 3900 * 4096 for start, length in found)


@given(
    st.integers(0, 3 * CHUNK_SIZE),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), max_size=10),
)
def test_only_whole_free_chunks_are_dropped(offset, ranges):
    unit = CHUNK_SIZE // 4
    size = 100 * unit
    held = ChunkSet(offset, size)
    held.fill()
    used = set(range(offset, offset + size, 512))
    for start, length in ranges:
        held.drop(offset + start * unit, length * unit)
        used -= set(range(offset + start * unit, offset + (start + length) * unit, 512))
    kept = set(chain.from_iterable(range(f, f + n) for f, n in held.runs()))
    assert {byte // CHUNK_SIZE for byte in used} <= kept
    assert all(index in held for index in kept)
