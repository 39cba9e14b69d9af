# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of what was written to an image and is not known to be durable there yet."""

from __future__ import annotations

from p2v.model.extent import Extent
from p2v.wire.chunk import GROUP_CHUNKS, chunk_length, zero_digest
from p2v.wire.digestmap import DigestMap

LONG_RUN = 256
"""Chunks from which on a run of zeros is kept as an extent: few enough fit between checkpoints for
them to be searched with every frame."""


class Pending:
    """Digests of a disk that wait for a checkpoint. Not thread-safe.

    A chunk has one digest at most: `drop` comes before every `add`. Longer runs of zeros are kept
    as extents (of chunks), so that terabytes of them cost nothing.
    """

    def __init__(self) -> None:
        self.chunks: dict[int, bytes] = {}
        self.zeros: list[Extent] = []

    def __bool__(self) -> bool:
        return bool(self.chunks or self.zeros)

    def add(self, chunk: int, digest: bytes) -> None:
        """Note a chunk's digest."""
        self.chunks[chunk] = digest

    def add_zeros(self, first: int, count: int, size: int) -> None:
        """Note chunks of a disk of `size` bytes as zeros."""
        if count >= LONG_RUN:
            self.zeros.append(Extent(first, count))
            return
        for chunk in range(first, first + count):
            self.chunks[chunk] = zero_digest(chunk_length(chunk, size))

    def drop(self, first: int, count: int) -> None:
        """Forget the digests of a range, walking whichever is shorter: the range or the notes."""
        if count <= len(self.chunks):
            for chunk in range(first, first + count):
                self.chunks.pop(chunk, None)
        else:
            for chunk in [chunk for chunk in self.chunks if first <= chunk < first + count]:
                del self.chunks[chunk]
        self.zeros = _without(self.zeros, first, first + count)

    def take_back(self, earlier: Pending) -> None:
        """Take over all notes of `earlier`; none is of a chunk that has one here."""
        self.chunks = earlier.chunks | self.chunks
        self.zeros = earlier.zeros + self.zeros

    def record(self, digests: DigestMap) -> None:
        """Write all notes into the map. Repeating it is harmless."""
        groups = {chunk // GROUP_CHUNKS for chunk in self.chunks}
        for extent in self.zeros:
            groups.update(_partial_groups(extent, digests.chunks))
        digests.itemise(groups)
        for extent in self.zeros:
            digests.record_zero(extent.offset, extent.length)
        digests.record(sorted(self.chunks.items()))


def _partial_groups(extent: Extent, chunks: int) -> set[int]:
    """Return the groups that an extent covers in part, on a disk of so many chunks."""
    edges = {extent.offset, extent.end} - {chunks}
    return {edge // GROUP_CHUNKS for edge in edges if edge % GROUP_CHUNKS}


def _without(extents: list[Extent], first: int, stop: int) -> list[Extent]:
    """Return `extents` without the chunks from `first` to `stop`."""
    if all(extent.end <= first or extent.offset >= stop for extent in extents):
        return extents
    left = []
    for extent in extents:
        if extent.offset < first:
            left.append(Extent(extent.offset, min(extent.end, first) - extent.offset))
        if extent.end > stop:
            start = max(extent.offset, stop)
            left.append(Extent(start, extent.end - start))
    return left
