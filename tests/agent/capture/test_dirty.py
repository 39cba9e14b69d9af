# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.dirty import DirtySet

GRANULE = 65536


@st.composite
def disks(draw):
    size = draw(st.integers(1, 300 * GRANULE))
    ranges = []
    for _ in range(draw(st.integers(0, 6))):
        offset = draw(st.integers(0, size - 1))
        ranges.append((offset, draw(st.integers(1, size - offset))))
    return size, ranges


@given(disks())
def test_extents_are_the_granules_that_were_touched_and_end_with_the_disk(disk):
    size, ranges = disk
    dirty = DirtySet(size, GRANULE)
    wanted = set()
    for offset, length in ranges:
        dirty.add(offset, length)
        wanted |= set(range(offset // GRANULE, (offset + length - 1) // GRANULE + 1))
    extents = list(dirty)
    assert {n for e in extents for n in range(e.offset // GRANULE, -(-e.end // GRANULE))} == wanted
    assert all(e.offset % GRANULE == 0 and e.end <= size for e in extents)
    assert dirty.bytes == sum(extent.length for extent in extents)
    assert bool(dirty) is bool(wanted)


def test_what_was_not_sent_is_put_back():
    one, other = DirtySet(10 * GRANULE, GRANULE), DirtySet(10 * GRANULE, GRANULE)
    one.add(0, 1)
    other.add(9 * GRANULE, 1)
    one.merge(other)
    assert [extent.offset // GRANULE for extent in one] == [0, 9]
    with pytest.raises(ValueError, match="sets of"):
        one.merge(DirtySet(11 * GRANULE, GRANULE))


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (0, 101), (100, 1)])
def test_ranges_outside_the_disk_are_refused(offset, length):
    with pytest.raises(ValueError, match="leave the disk of 100"):
        DirtySet(100, GRANULE).add(offset, length)


def test_more_extents_than_a_batch_are_all_given():
    dirty = DirtySet(4000 * GRANULE, GRANULE)
    for number in range(0, 4000, 2):
        dirty.add(number * GRANULE, 1)
    assert [extent.offset // GRANULE for extent in dirty] == list(range(0, 4000, 2))


def test_the_granules_of_a_range_are_told_by_their_first_byte():
    dirty = DirtySet(10 * GRANULE + 512, GRANULE)
    dirty.add(3 * GRANULE + 5, 1)
    dirty.add(10 * GRANULE, 512)
    assert dirty.granules(0, 4 * GRANULE) == {3 * GRANULE}
    assert dirty.granules(3 * GRANULE, 1) == {3 * GRANULE}
    assert dirty.granules(8 * GRANULE, 2 * GRANULE + 512) == {10 * GRANULE}
    assert dirty.granules(4 * GRANULE, 6 * GRANULE) == set()


@given(disks(), st.integers(1, 40))
def test_parts_hold_what_is_in_them_and_at_most_their_neighbours(disk, granules):
    size, ranges = disk
    dirty = DirtySet(size, GRANULE)
    for offset, length in ranges:
        dirty.add(offset, length)
    length = granules * GRANULE
    parts = dirty.parts(length)
    assert len(parts) == -(-size // length)
    for at, marked in enumerate(parts):
        start, end = at * length, min((at + 1) * length, size)
        inside = any(o < end and o + n > start for o, n in ranges)
        margin = 8 * GRANULE
        near = any(o < end + margin and o + n > start - margin for o, n in ranges)
        assert inside <= marked <= near
