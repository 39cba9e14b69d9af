# SPDX-License-Identifier: GPL-3.0-or-later
"""What changed on a disk: a bitmap of granules, as bounded as the tracker's own."""

from __future__ import annotations

from collections.abc import Iterator

from native._tracker import bits_count, bits_or, bits_runs, bits_set
from p2v.model.extent import Extent

_WORD = 64


class DirtySet:
    """The changed granules of a disk of `size` bytes; iterating gives them as merged extents.

    Attributes:
        size: bytes of the disk.
        granule: bytes that one bit stands for.
        bits: the bitmap, for a tracker to fill; granule n is bit n % 8 of byte n // 8.
    """

    def __init__(self, size: int, granule: int) -> None:
        self.size = size
        self.granule = granule
        self._granules = -(-size // granule)
        self.bits = bytearray(-(-self._granules // _WORD) * (_WORD // 8))

    def __bool__(self) -> bool:
        return bool(bits_runs(self.bits, 0))

    def __iter__(self) -> Iterator[Extent]:
        at = 0
        while runs := bits_runs(self.bits, at):
            for first, count in runs:
                offset = first * self.granule
                yield Extent(offset, min(count * self.granule, self.size - offset))
                at = first + count

    @property
    def bytes(self) -> int:
        """How many bytes are in it."""
        short = self._granules * self.granule - self.size
        last = self._granules - 1
        return bits_count(self.bits) * self.granule - short * (
            self.bits[last >> 3] >> (last & 7) & 1
        )

    def granules(self, offset: int, length: int) -> set[int]:
        """Return the first bytes of those granules in it that a range of bytes touches."""
        return {
            number * self.granule
            for number in self.covering(offset, length)
            if self.bits[number >> 3] >> (number & 7) & 1
        }

    def parts(self, length: int) -> list[bool]:
        """Return for each `length` bytes of the disk whether some of it is in it.

        Where parts share eight granules, both have what is in those.
        """
        step = 8 * self.granule
        found = []
        for offset in range(0, self.size, length):
            end = min(offset + length, self.size)
            bits = self.bits[offset // step : -(-end // step)]
            found.append(bits.count(0) < len(bits))
        return found

    def covering(self, offset: int, length: int) -> range:
        """Return the numbers of all granules that a range of bytes touches."""
        return range(offset // self.granule, -(-(offset + length) // self.granule))

    def add(self, offset: int, length: int) -> None:
        """Put in every granule that the bytes touch.

        Raises:
            ValueError: the range is empty or leaves the disk.
        """
        if offset < 0 or length <= 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset} leave the disk of {self.size}")
        first = offset // self.granule
        bits_set(self.bits, first, (offset + length - 1) // self.granule - first + 1)

    def add_from(self, below: DirtySet, start: int) -> None:
        """Put in what is in `below`, of a disk at whose byte `start` this one begins."""
        for extent in below:
            first, end = max(0, extent.offset - start), min(self.size, extent.end - start)
            if first < end:
                self.add(first, end - first)

    def merge(self, other: DirtySet) -> None:
        """Put in what is in `other`, of the same disk: what a pass that failed has not sent.

        Raises:
            ValueError: it is not of the same disk and tracker.
        """
        if (other.size, other.granule) != (self.size, self.granule):
            raise ValueError(f"sets of {self.size} and {other.size} bytes")
        bits_or(self.bits, other.bits)
