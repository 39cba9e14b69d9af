# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.images.compare import GRAIN, KEPT_RANGES, PIECE, compare_images, merge
from p2v.model.errors import ImageError
from p2v.model.extent import Extent

KiB, MiB = 1 << 10, 1 << 20
SIZE = 24 * MiB


def make(path: Path, writes: dict[int, bytes], size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in writes.items():
            file.seek(offset)
            file.write(data)
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Path:
    noise = random.Random(3)
    writes = {at * MiB: noise.randbytes(700 * KiB) for at in (0, 3, 4, 13, 23)}
    return make(tmp_path_factory.mktemp("compare") / "disk.raw", writes)


def converted(disk: Path, to: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "convert", *options, str(disk), str(to)], check=True)
    return to


def poke(disk: Path, to: Path, *offsets: int) -> Path:
    data = bytearray(disk.read_bytes())
    for offset in offsets:
        data[offset] ^= 1
    to.write_bytes(data)
    return to


@pytest.mark.parametrize(
    "options",
    [
        ("-O", "raw"),
        ("-O", "vhdx", "-o", "block_size=1M"),
        ("-O", "qcow2"),
        ("-O", "qcow2", "-c", "-o", "compression_type=zstd"),
    ],
)
def test_a_disk_is_the_same_in_every_format(options, disk, tmp_path):
    result = compare_images(disk, converted(disk, tmp_path / "other", *options))
    assert result.same and result.ranges == ()
    assert result.compared + result.skipped == SIZE
    assert result.skipped > 8 * MiB


def test_one_flipped_bit_is_found_where_it_is(disk, tmp_path):
    at = 13 * MiB + 12345
    result = compare_images(disk, poke(disk, tmp_path / "b", at))
    assert not result.same
    assert result.ranges == (Extent(at // GRAIN * GRAIN, GRAIN),)
    assert (result.count, result.differing) == (1, GRAIN)


def test_data_against_a_hole_differs_either_way(disk, tmp_path):
    other = make(tmp_path / "b", {8 * MiB: b"x" * 100})
    for result in (compare_images(disk, other), compare_images(other, disk)):
        assert Extent(8 * MiB, GRAIN) in result.ranges


def test_neighbouring_differences_are_one_range_across_pieces(disk, tmp_path):
    offsets = range(PIECE - 2 * GRAIN, PIECE + 2 * GRAIN, GRAIN)
    result = compare_images(disk, poke(disk, tmp_path / "b", *offsets))
    assert result.ranges == (Extent(PIECE - 2 * GRAIN, 4 * GRAIN),)


def test_many_differences_are_counted_and_the_first_are_listed(disk, tmp_path):
    offsets = range(0, SIZE, 8 * GRAIN)
    result = compare_images(disk, poke(disk, tmp_path / "b", *offsets))
    assert result.count == len(offsets) > KEPT_RANGES == len(result.ranges)
    assert result.differing == len(offsets) * GRAIN


def test_ignored_ranges_are_left_out(disk, tmp_path):
    other = poke(disk, tmp_path / "b", 5, 4 * MiB, 13 * MiB)
    ignore = [Extent(4 * MiB, MiB), Extent(0, 512)]
    result = compare_images(disk, other, ignore=ignore)
    assert result.ranges == (Extent(13 * MiB, GRAIN),)
    assert result.ignored == MiB + 512
    assert result.compared + result.skipped + result.ignored == SIZE


def test_zeros_beyond_the_shorter_disk_do_not_matter(disk, tmp_path):
    longer = make(tmp_path / "b", {0: disk.read_bytes()}, SIZE + 5 * MiB + 512)
    for result in (compare_images(disk, longer), compare_images(longer, disk)):
        assert result.same and result.size_a != result.size_b


def test_data_beyond_the_shorter_disk_does(disk, tmp_path):
    longer = make(tmp_path / "b", {0: disk.read_bytes(), SIZE + MiB: b"x"}, SIZE + 5 * MiB)
    for result in (compare_images(disk, longer), compare_images(longer, disk)):
        assert result.ranges == (Extent(SIZE + MiB, GRAIN),)


def test_progress_ends_at_the_whole(disk):
    calls: list[tuple[int, int]] = []
    compare_images(disk, disk, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (SIZE, SIZE)
    assert calls == sorted(calls)


def test_a_missing_image_is_an_error(disk, tmp_path):
    with pytest.raises(ImageError):
        compare_images(disk, tmp_path / "missing")


RANGES = st.lists(st.tuples(st.integers(0, 70), st.integers(1, 20)), max_size=6)


@given(RANGES)
def test_merged_ranges_cover_what_the_ranges_did(ranges):
    merged = merge(Extent(offset, length) for offset, length in ranges)
    covered = {byte for one in merged for byte in range(one.offset, one.end)}
    assert covered == {at for offset, length in ranges for at in range(offset, offset + length)}
    assert all(one.end < other.offset for one, other in pairwise(merged))


@settings(max_examples=60, deadline=None)
@given(
    differences=st.sets(st.integers(0, 63), max_size=8),
    holes=st.tuples(st.sets(st.integers(0, 63)), st.sets(st.integers(0, 63))),
    ignore=RANGES,
)
def test_every_difference_is_found_whatever_the_layout(
    tmp_path_factory, differences, holes, ignore
):
    """64 grains of a disk: stored or holes on each side, some different, some ignored."""
    folder = tmp_path_factory.getbasetemp()
    sides = []
    for side, empty in enumerate(holes):
        writes = {n * GRAIN: bytes(GRAIN) for n in range(64) if n not in empty}
        if side:
            writes |= {n * GRAIN: b"x" * GRAIN for n in differences}
        sides.append(make(folder / f"side{side}", writes, 64 * GRAIN))
    skip = [Extent(offset * GRAIN, length * GRAIN) for offset, length in ignore]
    hidden = {n for offset, length in ignore for n in range(offset, offset + length)}
    result = compare_images(*sides, ignore=skip)
    found = {n for one in result.ranges for n in range(one.offset // GRAIN, one.end // GRAIN)}
    assert found == differences - hidden
    assert result.ignored == len(hidden & set(range(64))) * GRAIN
