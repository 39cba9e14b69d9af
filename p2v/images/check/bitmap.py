# SPDX-License-Identifier: GPL-3.0-or-later
"""A bit a unit of the file: who has claimed it."""

from __future__ import annotations


class ClaimMap:
    """Remembers which units of a file are taken, a bit each.

    Memory is a byte for eight units and is touched only where something is claimed: 8 MiB for a
    64 TiB file in units of 1 MiB.
    """

    def __init__(self, units: int) -> None:
        self.units = units
        self._bits = bytearray(units + 7 >> 3)

    def claim(self, first: int, count: int = 1) -> bool:
        """Take the units; return whether all of them were free. What lies outside is ignored."""
        count = min(count, self.units - first)
        if first < 0 or count <= 0:
            return True
        at, shift = first >> 3, first & 7
        end = at + (shift + count + 7 >> 3)
        mask = (1 << count) - 1 << shift
        old = int.from_bytes(self._bits[at:end], "little")
        self._bits[at:end] = (old | mask).to_bytes(end - at, "little")
        return not old & mask

    def free(self) -> int:
        """Return the number of units that nobody has claimed."""
        taken = 0
        for start in range(0, len(self._bits), 1 << 16):
            taken += int.from_bytes(self._bits[start : start + (1 << 16)], "little").bit_count()
        return self.units - taken
