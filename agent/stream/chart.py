# SPDX-License-Identifier: GPL-3.0-or-later
"""A map of what happened to every part of the disks so far, small enough to be shown."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import StrEnum

from p2v.model.extent import Extent

CELLS = 256
"""Cells a disk. Few enough for a state file once a second, more than a console has columns."""


class Mark(StrEnum):
    """What a cell of the chart says; a letter each, which is also how it is stored."""

    NONE = "."
    SENT = "#"
    ZERO = "-"
    SAME = "="
    DIRTY = "*"
    """Dealt with, and written to since."""
    BAD = "!"


_KINDS = (Mark.SENT, Mark.ZERO, Mark.SAME)


class Chart:
    """Counts bytes by cell and kind. Thread-safe; an update is a few additions."""

    def __init__(self, sizes: Sequence[int], cells: int = CELLS) -> None:
        self._sizes = tuple(sizes)
        self._steps = tuple(max(1, -(-size // cells)) for size in sizes)
        counts = [-(-size // step) for size, step in zip(self._sizes, self._steps, strict=True)]
        self._bytes = [{kind: [0] * count for kind in _KINDS} for count in counts]
        self._bad = [[False] * count for count in counts]
        self._dirty = [[False] * count for count in counts]
        self._lock = threading.Lock()

    def add(self, disk: int, offset: int, length: int, kind: Mark) -> None:
        """Record that a range was dealt with."""
        step, cells = self._steps[disk], self._bytes[disk][kind]
        end = offset + length
        with self._lock:
            for index in range(offset // step, -(-end // step)):
                first, last = max(offset, index * step), min(end, (index + 1) * step)
                cells[index] += last - first

    def add_bad(self, disk: int, extents: Sequence[Extent]) -> None:
        """Record that ranges could not be read."""
        step = self._steps[disk]
        with self._lock:
            for extent in extents:
                for index in range(extent.offset // step, -(-extent.end // step)):
                    self._bad[disk][index] = True

    def step(self, disk: int) -> int:
        """Return the bytes of a cell of a disk."""
        return self._steps[disk]

    def set_dirty(self, disk: int, cells: Sequence[bool]) -> None:
        """Record in which cells something waits to be sent again; of fewer, in none beyond."""
        with self._lock:
            count = len(self._dirty[disk])
            self._dirty[disk] = [*cells[:count], *[False] * (count - len(cells))]

    def cells(self, disk: int) -> str:
        """Return a letter (`Mark`) for each cell of a disk, from its first byte to its last."""
        with self._lock:
            return "".join(self._mark(disk, index) for index in range(len(self._bad[disk])))

    def done(self, disk: int) -> int:
        """Return the bytes of a disk that were dealt with; what was done twice counts once."""
        step, size = self._steps[disk], self._sizes[disk]
        with self._lock:
            sums = (sum(cell) for cell in zip(*self._bytes[disk].values(), strict=True))
            return sum(min(count, step, size - index * step) for index, count in enumerate(sums))

    def _mark(self, disk: int, index: int) -> Mark:
        if self._bad[disk][index]:
            return Mark.BAD
        kind = max(_KINDS, key=lambda kind: self._bytes[disk][kind][index])
        if not self._bytes[disk][kind][index]:
            return Mark.NONE
        return Mark.DIRTY if self._dirty[disk][index] else kind
