# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of chunks, one bit each: 4 MiB for 8 TiB of disk, whatever the fragmentation."""

from __future__ import annotations

import re
from collections.abc import Iterator

from p2v.wire.chunk import CHUNK_SIZE

_SPANS = re.compile(rb"\x00+|\xff+|[^\x00\xff]", re.DOTALL)


class ChunkSet:
    """Chunks of a disk, between the chunk that holds byte `offset` and the end of `size` bytes."""

    def __init__(self, offset: int, size: int) -> None:
        self.first = offset // CHUNK_SIZE
        self.count = -(-(offset + size) // CHUNK_SIZE) - self.first
        self._bits = bytearray(-(-self.count // 8))

    def __contains__(self, chunk: int) -> bool:
        index = chunk - self.first
        if not 0 <= index < self.count:
            return False
        return bool(self._bits[index >> 3] >> (index & 7) & 1)

    def add(self, offset: int, length: int) -> None:
        """Put in every chunk that the bytes touch; they must lie within the set's range."""
        start = offset // CHUNK_SIZE - self.first
        end = -(-(offset + length) // CHUNK_SIZE) - self.first
        if start < 0 or end > self.count or length <= 0:
            raise ValueError(f"{length} bytes at {offset} are outside the set")
        while start < end and start & 7:
            self._bits[start >> 3] |= 1 << (start & 7)
            start += 1
        whole = (end - start) >> 3
        if whole > 0:
            self._bits[start >> 3 : (start >> 3) + whole] = b"\xff" * whole
            start += whole << 3
        while start < end:
            self._bits[start >> 3] |= 1 << (start & 7)
            start += 1

    def fill(self) -> None:
        """Put in every chunk."""
        self._bits = bytearray(b"\xff" * len(self._bits))
        for index in range(self.count, len(self._bits) * 8):
            self._bits[index >> 3] &= ~(1 << (index & 7)) & 0xFF

    def drop(self, offset: int, length: int) -> None:
        """Take out the chunks that lie wholly within the bytes; those within the set's range."""
        start = -(-offset // CHUNK_SIZE) - self.first
        end = (offset + length) // CHUNK_SIZE - self.first
        if start < 0 or end > self.count or length <= 0:
            raise ValueError(f"{length} bytes at {offset} are outside the set")
        while start < end and start & 7:
            self._bits[start >> 3] &= ~(1 << (start & 7)) & 0xFF
            start += 1
        whole = (end - start) >> 3
        if whole > 0:
            self._bits[start >> 3 : (start >> 3) + whole] = bytes(whole)
            start += whole << 3
        while start < end:
            self._bits[start >> 3] &= ~(1 << (start & 7)) & 0xFF
            start += 1

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the first chunk and the length in chunks of every run, in order."""
        start: int | None = None
        for span in _SPANS.finditer(self._bits):
            at, value = span.start() * 8, span[0][0]
            if value in (0, 0xFF):
                if value and start is None:
                    start = at
                elif not value and start is not None:
                    yield self.first + start, at - start
                    start = None
                continue
            for bit in range(8):
                present = value >> bit & 1
                if present and start is None:
                    start = at + bit
                elif not present and start is not None:
                    yield self.first + start, at + bit - start
                    start = None
        if start is not None:
            yield self.first + start, min(self.count, len(self._bits) * 8) - start
