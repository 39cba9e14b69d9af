# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.holes import HOLE, without_holes
from agent.capture.layout import Kind, Piece
from agent.capture.source import Source
from p2v.model.extent import Extent
from p2v.wire.chunk import CHUNK_SIZE

SIZE = 40 * CHUNK_SIZE + 8192


@dataclass
class Stored:
    """A source whose stored parts are given, in order."""

    parts: list[tuple[int, int]] = field(default_factory=list)
    size: int = SIZE

    def stored(self, offset, length):
        for start, end in self.parts:
            low, high = max(start, offset), min(end, offset + length)
            if low < high:
                yield low, high


def pieces(parts, *given_pieces):
    whole = given_pieces or (Piece(0, SIZE, Kind.READ),)
    return list(without_holes(whole, Stored(list(parts))))


def brief(found):
    return [(p.offset // CHUNK_SIZE, -(-p.length // CHUNK_SIZE), p.kind.value) for p in found]


def test_a_file_without_data_is_one_piece_of_zeros():
    assert pieces([]) == [Piece(0, SIZE, Kind.ZERO, HOLE)]


def test_a_file_without_holes_is_read_as_one_piece():
    assert pieces([(0, SIZE)]) == [Piece(0, SIZE, Kind.READ)]


def test_a_chunk_with_any_data_is_read_whole():
    byte = 3 * CHUNK_SIZE + 77
    assert brief(pieces([(byte, byte + 1)])) == [(0, 3, "zero"), (3, 1, "read"), (4, 37, "zero")]


def test_parts_in_neighbouring_chunks_are_read_together():
    parts = [(5, 6), (CHUNK_SIZE + 5, CHUNK_SIZE + 6), (SIZE - 1, SIZE)]
    assert brief(pieces(parts)) == [(0, 2, "read"), (2, 38, "zero"), (40, 1, "read")]


def test_pieces_that_are_not_simply_read_stay_as_they_are():
    kept = (
        Piece(0, CHUNK_SIZE, Kind.LITERAL, "swap", bytes(CHUNK_SIZE)),
        Piece(CHUNK_SIZE, CHUNK_SIZE, Kind.READ, blank=(Extent(CHUNK_SIZE, 512),)),
        Piece(2 * CHUNK_SIZE, CHUNK_SIZE, Kind.READ, overlay=((2 * CHUNK_SIZE, b"x"),)),
        Piece(3 * CHUNK_SIZE, CHUNK_SIZE, Kind.ZERO, "free"),
    )
    assert tuple(without_holes(kept, Stored())) == kept


parts_of_disk = st.lists(st.integers(0, SIZE - 1), min_size=2, max_size=16, unique=True).map(
    lambda cuts: list(zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
)


@given(parts_of_disk, st.integers(0, 39))
def test_every_stored_byte_is_read_and_every_byte_is_covered_once(parts, cut):
    middle = cut * CHUNK_SIZE
    given_pieces = [Piece(middle, SIZE - middle, Kind.READ)]
    if middle:
        given_pieces.insert(0, Piece(0, middle, Kind.READ))
    found = pieces(parts, *given_pieces)
    at = 0
    for piece in found:
        assert piece.offset == at and piece.length > 0 and piece.offset % CHUNK_SIZE == 0
        at = piece.end
        stored = any(s < piece.end and e > piece.offset for s, e in parts)
        assert piece.kind is (Kind.READ if stored else Kind.ZERO)
    assert at == SIZE


def test_a_real_sparse_file_is_read_only_where_it_is_stored(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), b"x" * 4096, 1 << 39)
    with Source(path) as source:
        found = list(without_holes([Piece(0, source.size, Kind.READ)], source))
    assert [piece.kind for piece in found] == [Kind.ZERO, Kind.READ, Kind.ZERO]
    assert found[1].length == CHUNK_SIZE and found[1].offset == 1 << 39


@pytest.mark.root
def test_a_block_device_says_that_everything_is_stored(tmp_path, loop):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    with loop(path) as device, Source(device) as source:
        assert list(source.stored(4096, 8192)) == [(4096, 12288)]
