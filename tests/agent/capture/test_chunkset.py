# SPDX-License-Identifier: GPL-3.0-or-later
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.chunkset import ChunkSet
from p2v.wire.chunk import CHUNK_SIZE

SIZE = 100 * CHUNK_SIZE
ranges = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, 30 * CHUNK_SIZE)).filter(
        lambda r: r[0] + r[1] <= SIZE
    ),
    max_size=12,
)


@given(ranges, st.integers(0, 3 * CHUNK_SIZE))
def test_holds_every_chunk_that_a_byte_of_a_range_lies_in(ranges, base):
    chunks = ChunkSet(base, SIZE)
    model = set()
    for offset, length in ranges:
        chunks.add(base + offset, length)
        first, last = (base + offset) // CHUNK_SIZE, (base + offset + length - 1) // CHUNK_SIZE
        model |= set(range(first, last + 1))
    runs = list(chunks.runs())
    assert [c for first, count in runs for c in range(first, first + count)] == sorted(model)
    assert all(a + n < b for (a, n), (b, _) in pairwise(runs))
    assert {c for c in range(120) if c in chunks} == model


def test_refuses_what_lies_outside():
    chunks = ChunkSet(CHUNK_SIZE, CHUNK_SIZE)
    for offset, length in ((0, 1), (2 * CHUNK_SIZE, 1), (CHUNK_SIZE, 0)):
        with pytest.raises(ValueError):
            chunks.add(offset, length)


def test_sixteen_tebibytes_take_eight_mebibytes():
    chunks = ChunkSet(0, 16 << 40)
    assert len(chunks._bits) == 8 << 20
    chunks.add(0, 1)
    chunks.add((16 << 40) - 1, 1)
    assert list(chunks.runs()) == [(0, 1), ((16 << 40) // CHUNK_SIZE - 1, 1)]
