# SPDX-License-Identifier: GPL-3.0-or-later
"""The places of a disk that could not be read: complete as a sum, bounded as a list."""

from __future__ import annotations

import threading
from bisect import bisect_right

from p2v.model.extent import Extent

MAX_RANGES = 10_000
"""Ranges kept one by one; a disk with more is past reporting, and only their sum is kept."""


class BadRanges:
    """Unreadable ranges, merged and in disk order; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Extent] = []
        self._bytes = 0
        self._overflow = 0

    def add(self, offset: int, length: int) -> None:
        """Record `length` unreadable bytes at `offset`; what is recorded already counts once."""
        with self._lock:
            at = bisect_right(self._kept, offset, key=lambda extent: extent.offset)
            if at and self._kept[at - 1].end >= offset:
                at -= 1
            end = at
            while end < len(self._kept) and self._kept[end].offset <= offset + length:
                end += 1
            touched = self._kept[at:end]
            if not touched and len(self._kept) >= MAX_RANGES:
                self._overflow += 1
                self._bytes += length
                return
            start = min([offset, *(extent.offset for extent in touched)])
            stop = max([offset + length, *(extent.end for extent in touched)])
            self._bytes += stop - start - sum(extent.length for extent in touched)
            self._kept[at:end] = [Extent(start, stop - start, zero=True)]

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The ranges, at most `MAX_RANGES` of them."""
        with self._lock:
            return tuple(self._kept)

    @property
    def count(self) -> int:
        """How many places there are, those beyond `MAX_RANGES` included."""
        with self._lock:
            return len(self._kept) + self._overflow

    @property
    def bytes(self) -> int:
        """How many bytes could not be read."""
        with self._lock:
            return self._bytes
