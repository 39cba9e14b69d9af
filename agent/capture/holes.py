# SPDX-License-Identifier: GPL-3.0-or-later
"""Skips the holes of an image file: they are zeros for sure, however many terabytes they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from agent.capture.layout import Kind, Piece
from p2v.wire.chunk import CHUNK_SIZE

HOLE = "hole"


class Sparse(Protocol):
    """The part of a source that knows its holes (agent.capture.source.Source is one)."""

    size: int

    def stored(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the parts of a range that are no holes, in order."""


def without_holes(pieces: Iterable[Piece], source: Sparse) -> Iterator[Piece]:
    """Yield the pieces; of those that are simply read, whole chunks in holes become zeros."""
    for piece in pieces:
        if piece.kind is Kind.READ and not piece.blank and not piece.overlay:
            yield from _split(piece, source)
        else:
            yield piece


def _split(piece: Piece, source: Sparse) -> Iterator[Piece]:
    at = read_from = read_to = piece.offset
    for start, end in source.stored(piece.offset, piece.length):
        first = start // CHUNK_SIZE * CHUNK_SIZE
        if first > read_to:
            yield from _pieces(piece, at, read_from, read_to)
            at, read_from = read_to, first
        read_to = min(-(-end // CHUNK_SIZE) * CHUNK_SIZE, piece.end)
    yield from _pieces(piece, at, read_from, read_to)
    yield from _pieces(piece, read_to, piece.end, piece.end)


def _pieces(piece: Piece, at: int, read_from: int, read_to: int) -> Iterator[Piece]:
    """Yield a hole from `at` on and what is read behind it, as far as there is any of each."""
    if at < read_from:
        yield Piece(at, read_from - at, Kind.ZERO, HOLE)
    if read_from < read_to:
        yield replace(piece, offset=read_from, length=read_to - read_from)
