# SPDX-License-Identifier: GPL-3.0-or-later
"""The loader of the kernel's programs, and the bitmaps that marks end up in."""

import fcntl
import mmap
import os
import struct
import subprocess
from contextlib import contextmanager
from importlib import resources
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native._tracker import (
    MAP_PAGE,
    MIN_GRANULE,
    ArrayMap,
    CoreTracker,
    bits_count,
    bits_or,
    bits_runs,
    bits_set,
    device_key,
    has_atomic_or,
    load_program,
    nvme_key,
    nvme_path_key,
)

GiB = 1 << 30
BLKDISCARD = 0x1277
PROGRAM = resources.files("native").joinpath("tracker.bpf.o").read_bytes()
root = pytest.mark.root

RANGES = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 200)), max_size=8)


def set_of(bits):
    return {n for n in range(len(bits) * 8) if bits[n >> 3] >> (n & 7) & 1}


@given(RANGES)
def test_ranges_that_are_set_come_back_as_merged_runs(ranges):
    bits = bytearray(100)
    wanted = set()
    for first, count in ranges:
        bits_set(bits, first, count)
        wanted |= set(range(first, first + count))
    assert set_of(bits) == wanted
    assert bits_count(bits) == len(wanted)
    runs = bits_runs(bits, 0)
    assert {n for first, count in runs for n in range(first, first + count)} == wanted
    assert all(a + b < c for (a, b), (c, _) in pairwise(runs))


@given(st.binary(min_size=24, max_size=24), st.binary(min_size=24, max_size=24))
def test_a_union_has_the_bits_of_both(one, other):
    into = bytearray(one)
    bits_or(into, other)
    assert set_of(into) == set_of(one) | set_of(other)


def test_more_runs_than_a_batch_are_found_by_going_on():
    bits = bytearray(b"\x55" * 1000)
    at, found = 0, []
    while runs := bits_runs(bits, at):
        assert len(runs) <= 512
        found += runs
        at = sum(runs[-1])
    assert found == [(n, 1) for n in range(0, 8000, 2)]


def test_a_bitmap_is_never_left():
    bits = bytearray(8)
    for first, count in ((60, 5), (65, 0), (64, 1), (2**64 - 1, 2)):
        with pytest.raises(ValueError, match="leave"):
            bits_set(bits, first, count)
    with pytest.raises(ValueError, match="outside"):
        bits_runs(bits, 65)
    with pytest.raises(ValueError, match="bitmaps of 8 and 7"):
        bits_or(bits, bytes(7))
    with pytest.raises(BufferError):
        bits_set(bytes(8), 0, 1)
    assert bits == bytes(8)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        (b"nvme0c0n1", (0, 1)),
        (b"nvme12c345n67", (12, 67)),
        (b"nvme0n1", None),
        (b"nvme0c0n1p1", None),
        (b"nvme0c0", None),
        (b"nvmec0n1", None),
        (b"nvme0cn1", None),
        (b"nvme0c0n", None),
        (b"nvme0c0c0n1", None),
        (b"sda", None),
        (b"", None),
    ],
)
def test_a_path_to_a_namespace_is_known_by_its_name(name, numbers):
    assert nvme_path_key(name) == (nvme_key(*numbers) if numbers else 0)


def test_keys_of_devices_and_of_paths_never_meet():
    assert device_key(2**31 - 1, 2**32 - 1) < nvme_key(0, 0)
    with pytest.raises(ValueError, match="too long"):
        nvme_path_key(b"n" * 32)


@contextmanager
def sparse_disk(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    argv = ["losetup", "--find", "--show", path]
    device = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        yield fd, device
    finally:
        os.close(fd)
        subprocess.run(["losetup", "-d", device], check=True)


@contextmanager
def tracking(disks, granule, bytewise):
    tracker = CoreTracker(PROGRAM, disks, granule, bytewise)
    try:
        yield tracker
    finally:
        tracker.close()


def key_of(fd):
    number = os.fstat(fd).st_rdev
    return device_key(os.major(number), os.minor(number))


def write(fd, offset, length=4096):
    with mmap.mmap(-1, length) as block:
        block.write(b"x" * length)
        os.pwrite(fd, block, offset)


def taken(tracker, index=0):
    bits = bytearray(tracker.bits_length(index))
    tracker.take(index, bits)
    return bits_runs(bits, 0)


LAYOUTS = pytest.mark.parametrize(
    "bytewise",
    [
        pytest.param(False, marks=pytest.mark.skipif(not has_atomic_or(), reason="Linux < 5.12")),
        True,
    ],
    ids=["bits", "bytes"],
)


@root
@LAYOUTS
def test_every_range_is_marked_to_its_edges(tmp_path, bytewise):
    granule = MIN_GRANULE
    with (
        sparse_disk(tmp_path / "disk", 5 * GiB) as (fd, _),
        tracking([(key_of(fd), 5 * GiB)], granule, bytewise) as tracker,
    ):
        for offset, length, runs in [
            (0, 4096, [(0, 1)]),
            (granule - 4096, 4096, [(0, 1)]),
            (granule - 4096, 8192, [(0, 2)]),
            (63 * granule, 2 * granule, [(63, 2)]),
            (64 * granule, 64 * granule, [(64, 64)]),
            (5 * GiB - 4096, 4096, [(5 * GiB // granule - 1, 1)]),
        ]:
            write(fd, offset, length)
            assert taken(tracker) == runs
        for offset, length in [(granule * 7, 4 * GiB), (0, 5 * GiB)]:
            fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", offset, length))
            assert taken(tracker) == [(offset // granule, length // granule)]
        assert taken(tracker) == []
        os.pread(fd, 0, 0)
        os.fsync(fd)
        assert taken(tracker) == []
        assert tracker.counts(0)[1:] == (0, 0, 0)


@root
@LAYOUTS
def test_disks_are_kept_apart_and_others_ignored(tmp_path, bytewise):
    size = 64 << 20
    with (
        sparse_disk(tmp_path / "a", size) as (a, _),
        sparse_disk(tmp_path / "b", size) as (b, _),
        sparse_disk(tmp_path / "c", size) as (c, _),
        tracking([(key_of(a), size), (key_of(b), size)], MIN_GRANULE, bytewise) as tracker,
    ):
        write(a, 0)
        write(b, size - 4096)
        write(c, 1 << 20)
        assert taken(tracker, 0) == [(0, 1)]
        assert taken(tracker, 1) == [(size // MIN_GRANULE - 1, 1)]


@root
def test_marks_are_added_to_what_the_bitmap_holds(tmp_path):
    size = 1 << 20
    with (
        sparse_disk(tmp_path / "disk", size) as (fd, _),
        tracking([(key_of(fd), size)], MIN_GRANULE, not has_atomic_or()) as tracker,
    ):
        bits = bytearray(tracker.bits_length(0))
        bits_set(bits, 3, 1)
        write(fd, 0)
        tracker.take(0, bits)
        assert bits_runs(bits, 0) == [(0, 1), (3, 1)]
        with pytest.raises(ValueError, match="bytes"):
            tracker.take(0, bytearray(4))
        with pytest.raises(IndexError):
            tracker.take(1, bits)


@root
def test_what_goes_beyond_the_known_end_is_counted(tmp_path):
    size = 8 << 20
    with (
        sparse_disk(tmp_path / "disk", 2 * size) as (fd, _),
        tracking([(key_of(fd), size)], MIN_GRANULE, not has_atomic_or()) as tracker,
    ):
        write(fd, size - 4096, 8192)
        write(fd, size + 4096)
        assert taken(tracker) == [(size // MIN_GRANULE - 1, 1)]
        completed, *_, beyond = tracker.counts(0)
        assert (completed, beyond > 0) == (24, True)


@root
def test_nothing_works_after_closing(tmp_path):
    with (
        sparse_disk(tmp_path / "disk", 1 << 20) as (fd, _),
        tracking([(key_of(fd), 1 << 20)], MIN_GRANULE, True) as tracker,
    ):
        tracker.close()
        for call in (tracker.lost, lambda: tracker.counts(0), lambda: tracker.bits_length(0)):
            with pytest.raises(ValueError, match="closed"):
                call()


def test_nonsense_is_refused_before_the_kernel_sees_it():
    disk = (device_key(7, 0), 1 << 20)
    for disks, granule, message in [
        ([], MIN_GRANULE, "0 disks"),
        ([disk] * 257, MIN_GRANULE, "257 disks"),
        ([disk], MIN_GRANULE // 2, "granule"),
        ([disk], MIN_GRANULE * 3, "granule"),
        ([(disk[0], 0)], MIN_GRANULE, "0 bytes"),
    ]:
        with pytest.raises(ValueError, match=message):
            CoreTracker(PROGRAM, disks, granule, True)


@root
def test_an_object_that_is_none_says_what_libbpf_thinks_of_it():
    with pytest.raises(OSError, match="loading") as caught:
        CoreTracker(b"not an object", [(device_key(7, 0), 1 << 20)], MIN_GRANULE, True)
    assert "libbpf" in caught.value.__notes__[0]


@root
def test_a_program_for_the_same_disk_twice_is_refused():
    disk = (device_key(7, 0), 1 << 20)
    with pytest.raises(FileExistsError):
        CoreTracker(PROGRAM, [disk, disk], MIN_GRANULE, True)


@root
def test_a_map_keeps_what_it_is_given():
    shared = ArrayMap("p2v_test", 8, 4)
    shared[3] = b"12345678"
    assert (shared[3], shared[0]) == (b"12345678", bytes(8))
    with pytest.raises(IndexError):
        shared[4]
    with pytest.raises(OSError, match="writing"):
        shared[4] = bytes(8)
    with pytest.raises(ValueError, match="8 bytes"):
        shared[0] = bytes(9)
    with pytest.raises(ValueError, match="generation"):
        shared.take(0, 1, 0, 1, bytearray(8))  # its values are no pages
    shared.close()
    with pytest.raises(ValueError, match="closed"):
        shared[0]


@root
def test_units_of_a_generation_become_granules():
    pages = ArrayMap("p2v_test", MAP_PAGE, 2)
    page = bytearray(MAP_PAGE)
    page[-1], page[-3], page[-4] = 7, 7, 6
    pages[0] = bytes(page)
    pages[1] = bytes([7, 6, 7]) + bytes(MAP_PAGE - 3)
    bits = bytearray(8)
    pages.take(MAP_PAGE - 4, 7, 0, 7, bits)
    assert bits_runs(bits, 0) == [(1, 1), (3, 2), (6, 1)]
    bits = bytearray(8)
    pages.take(MAP_PAGE - 4, 50, 4, 7, bits)  # 16 granules a unit, the last unit is short
    assert bits_runs(bits, 0) == [(16, 16), (48, 2)]
    with pytest.raises(ValueError, match="fit"):
        pages.take(0, 65, 0, 7, bits)
    pages.close()


@root
def test_instructions_that_the_verifier_refuses_are_an_error():
    exit_alone = struct.pack("<BBhi", 0x95, 0, 0, 0)
    with pytest.raises(OSError, match="loading the program p2v_bad"):
        load_program("p2v_bad", exit_alone)
