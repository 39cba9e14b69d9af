# SPDX-License-Identifier: GPL-3.0-or-later
"""Digest maps: what is known survives, what is unknown is never invented, and little is stored."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2v.model.errors import ImageError
from p2v.model.units import GiB, TiB
from p2v.wire.chunk import CHUNK_SIZE, GROUP_CHUNKS, UNKNOWN, chunk_length, zero_digest
from p2v.wire.digestmap import DigestMap, expand_group

SIZE = 2 * GiB + 3 * CHUNK_SIZE + 1000
COUNT = 2 * GROUP_CHUNKS + 4


@pytest.fixture
def made(tmp_path):
    digests = DigestMap.create(tmp_path / "map", SIZE)
    yield digests
    digests.close()


def reopened(digests):
    digests.sync()
    return DigestMap.open(digests.path)


def test_nothing_is_known_at_first(made):
    assert made.chunks == made.missing() == COUNT
    assert made.get(0) == made.get(COUNT - 1) == UNKNOWN
    assert made.group(0) == b"\0"


def test_a_recorded_digest_is_found_again(made):
    made.record([(3, b"a" * 32), (4, b"b" * 32), (GROUP_CHUNKS + 1, b"c" * 32)])
    again = reopened(made)
    assert again.get(4) == b"b" * 32
    assert again.get(5) == UNKNOWN
    assert again.missing() == COUNT - 3
    assert expand_group(again.group(0), 0, SIZE)[3 * 32 : 5 * 32] == b"a" * 32 + b"b" * 32


def test_zeros_have_the_digest_of_zeros_and_whole_groups_cost_a_byte(made):
    made.record_zero(0, COUNT)
    again = reopened(made)
    assert again.missing() == 0
    assert again.group(1) == b"\1"
    assert again.get(5) == zero_digest(CHUNK_SIZE)
    assert again.get(COUNT - 1) == zero_digest(1000)
    assert expand_group(again.group(2), 2, SIZE)[-32:] == zero_digest(1000)


def test_forgetting_says_whether_anything_was_known(made):
    assert not made.forget(0, COUNT)
    made.record([(9, b"a" * 32)])
    assert made.forget(8, 4)
    assert made.get(9) == UNKNOWN
    assert not made.forget(9)


def test_forgetting_one_chunk_of_a_zero_group_keeps_the_others(made):
    made.record_zero(0, COUNT)
    assert made.forget(17)
    assert made.missing() == 1
    assert made.get(16) == zero_digest(CHUNK_SIZE)


def test_a_group_that_was_forgotten_whole_does_not_come_back(made):
    made.record([(index, b"x" * 32) for index in range(100)])
    made.forget(0, GROUP_CHUNKS)
    made.record([(0, b"y" * 32)])
    assert made.get(50) == UNKNOWN


def test_the_map_of_an_empty_64_tib_disk_takes_next_to_no_room(tmp_path):
    digests = DigestMap.create(tmp_path / "map", 64 * TiB)
    digests.record_zero(0, digests.chunks)
    assert digests.missing() == 0
    assert digests.path.stat().st_blocks * 512 <= 128 * 1024
    digests.close()


@pytest.mark.parametrize("damage", [b"", b"short", b"X" * 5000], ids=["empty", "short", "other"])
def test_another_file_is_refused(tmp_path, damage):
    path = tmp_path / "map"
    path.write_bytes(damage)
    with pytest.raises(ImageError):
        DigestMap.open(path)


def test_a_damaged_group_table_is_refused(made):
    with made.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\7")
    with pytest.raises(ImageError, match="table of groups"):
        DigestMap.open(made.path)


@given(body=st.binary(max_size=200), number=st.integers(0, 2))
def test_bytes_that_are_no_group_are_refused(body, number):
    expected = min(GROUP_CHUNKS, COUNT - number * GROUP_CHUNKS) * 32
    try:
        digests = expand_group(body, number, SIZE)
    except ImageError:
        return
    assert digests is None or len(digests) == expected


ranges = st.tuples(st.integers(0, COUNT - 1), st.integers(1, COUNT)).map(
    lambda pair: (pair[0], min(pair[1], COUNT - pair[0]))
)
operations = st.one_of(
    st.tuples(st.just("zero"), ranges),
    st.tuples(st.just("forget"), ranges),
    st.tuples(st.just("record"), st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=5)),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(operations, max_size=12))
def test_a_map_behaves_like_a_list_of_digests(tmp_path, steps):
    path = tmp_path / os.urandom(8).hex()
    digests = DigestMap.create(path, SIZE)
    model = [UNKNOWN] * COUNT
    for number, (what, value) in enumerate(steps):
        if what == "record":
            digest = bytes([number + 1]) * 32
            for index in sorted(set(value)):
                model[index] = digest
            digests.record([(index, digest) for index in sorted(set(value))])
            continue
        first, count = value
        if what == "zero":
            digests.record_zero(first, count)
            for index in range(first, first + count):
                model[index] = zero_digest(chunk_length(index, SIZE))
        else:
            known = any(model[index] != UNKNOWN for index in range(first, first + count))
            assert digests.forget(first, count) == known
            model[first : first + count] = [UNKNOWN] * count
    digests.sync()
    again = DigestMap.open(path)
    assert again.missing() == model.count(UNKNOWN)
    for number in range(3):
        body = expand_group(again.group(number), number, SIZE)
        part = model[number * GROUP_CHUNKS : (number + 1) * GROUP_CHUNKS]
        assert (body or UNKNOWN * len(part)) == b"".join(part)
    digests.close()
    again.close()
