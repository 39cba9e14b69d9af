# SPDX-License-Identifier: GPL-3.0-or-later
"""What to send of a disk that changed while it was copied: pieces of its layout, or pages of them.

A chunk that was free when the copy began is not on the other side, so that it is sent whole the
first time it is written to, and by pages from then on. Pure but for what it remembers of that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.capture.layout import (
    Kind,
    Layout,
    Piece,
    chunks_of,
    edges_of,
    inner,
    read_pieces,
)
from p2v.model.extent import Extent
from p2v.wire.chunk import CHUNK_SIZE, chunk_length
from p2v.wire.pages import PAGE_SIZE, Runs

_CHUNK_PAGES = CHUNK_SIZE // PAGE_SIZE
_MOST = 3 / 4
"""From this share of its pages on a chunk is sent whole: it needs no base on the other side."""


@dataclass(frozen=True, slots=True)
class Change:
    """A piece that changed. With `pages` it is one chunk, of which only these may have changed."""

    piece: Piece
    pages: Runs = ()


class Changes:
    """Turns what was written to a disk into what is sent of it, pass by pass."""

    def __init__(self, layout: Layout) -> None:
        self._size = layout.size
        self._edges = edges_of(layout)
        self._used = [region for region in layout.regions if region.used is not None]
        blank = [inner(r, layout.size) for r in layout.regions if r.used is None]
        self._blank = [span for span in blank if span[0] < span[1]]
        self._starts = [first for first, _ in self._blank]

    def of(self, written: Iterable[Extent], *, whole: bool = False) -> Iterator[Change]:
        """Yield what has to be sent of what was `written`: ascending, merged extents.

        What lies in a swap or an excluded partition does not count. With `whole` no chunk is sent
        by pages: it is not sure what the other side has of it.
        """
        for first, last, pages in _spans(written, self._size):
            for start, end in self._copied(first, last):
                fresh = self._take(start, end)
                if pages and not fresh and not whole and start not in self._edges:
                    offset = start * CHUNK_SIZE
                    length = chunk_length(start, self._size)
                    yield Change(Piece(offset, length, Kind.READ), pages)
                    continue
                for piece in read_pieces(start, end, self._size, self._edges):
                    yield Change(piece)

    def _copied(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range of chunks that are copied at all."""
        at = max(0, bisect_right(self._starts, first) - 1)
        for start, end in self._blank[at:]:
            if start >= last:
                break
            if first < min(start, last):
                yield first, start
            first = max(first, end)
        if first < last:
            yield first, last

    def _take(self, first: int, last: int) -> bool:
        """Count chunks as in use from now on; return whether any was not before."""
        fresh = False
        for region in self._used:
            used = region.used
            if used is None or region.end <= first * CHUNK_SIZE:
                continue
            start = max(region.offset, first * CHUNK_SIZE)
            end = min(region.end, last * CHUNK_SIZE)
            if start >= end:
                break
            inside = range(start // CHUNK_SIZE, chunks_of(end))
            if len(inside) > 1 or inside[0] not in used:
                fresh = True
                used.add(start, end - start)
        return fresh


def _spans(written: Iterable[Extent], size: int) -> Iterator[tuple[int, int, Runs]]:
    """Yield (first, last, pages): runs of whole chunks, or one chunk with the pages in it."""
    chunk, pages = -1, list[tuple[int, int]]()
    for extent in written:
        at = extent.offset
        while at < extent.end:
            number = at // CHUNK_SIZE
            if number != chunk:
                yield from _partial(chunk, pages, size)
                chunk, pages = -1, []
                if at % CHUNK_SIZE == 0 and extent.end - at >= chunk_length(number, size):
                    stop = extent.end // CHUNK_SIZE
                    stop = chunks_of(size) if extent.end >= size else stop
                    yield number, stop, ()
                    at = min(stop * CHUNK_SIZE, extent.end)
                    continue
                chunk = number
            end = min(extent.end, (number + 1) * CHUNK_SIZE)
            start = at % CHUNK_SIZE // PAGE_SIZE
            pages.append((start, -(-(end - number * CHUNK_SIZE) // PAGE_SIZE) - start))
            at = end
    yield from _partial(chunk, pages, size)


def _partial(
    chunk: int, pages: list[tuple[int, int]], size: int
) -> Iterator[tuple[int, int, Runs]]:
    if chunk < 0:
        return
    whole = sum(count for _, count in pages) >= _MOST * _CHUNK_PAGES
    yield chunk, chunk + 1, () if whole else tuple(pages)
