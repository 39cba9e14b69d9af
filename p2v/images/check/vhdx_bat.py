# SPDX-License-Identifier: GPL-3.0-or-later
"""The VHDX block allocation table ([MS-VHDX] 2.5), in pieces: it may have 513 MiB.

That no two blocks share a byte needs a bit for each MiB of the file: 8 MiB of memory for a 64 TiB
image, 32 MiB at the most that the format's offsets are trusted with.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator

from p2v.images.check.bitmap import ClaimMap
from p2v.images.check.report import Findings
from p2v.images.check.vhdx_log import View
from p2v.images.check.vhdx_metadata import Metadata
from p2v.model.units import MiB

_PIECE = MiB
_ZEROS = bytes(_PIECE)
_MAX_UNITS = 1 << 28
"""Offsets beyond 256 TiB are refused by Microsoft's own reader, and here."""

_STATE = 7
_RESERVED = 0xFFFF8
_UNDEFINED, _UNMAPPED = 1, 3
_PRESENT, _PARTIAL = 6, 7
_INVALID = (4, 5)


def check_bat(
    view: View,
    findings: Findings,
    metadata: Metadata,
    start: int,
    length: int,
    taken: list[tuple[int, int]],
) -> int:
    """Check every entry of the table; return the bytes of the disk that its blocks store.

    `taken` are the (start, end) of the regions that no block may touch.
    """
    bat = _Bat(view, findings, metadata, start, taken)
    if bat.entries * 8 > length:
        findings.error(
            "bat-size", f"{bat.entries} entries are needed, {length // 8} fit the region", start
        )
        return 0
    bat.check()
    return bat.allocated


class _Bat:
    def __init__(
        self,
        view: View,
        findings: Findings,
        metadata: Metadata,
        start: int,
        taken: list[tuple[int, int]],
    ) -> None:
        self._view = view
        self._findings = findings
        self._metadata = metadata
        self._start = start
        self._taken = _merged(taken)
        self._file = ClaimMap(min(view.size // MiB, _MAX_UNITS))
        for low, high in self._taken:
            self._file.claim(low // MiB, (high - low) // MiB)
        self._ratio = (1 << 23) * metadata.logical_sector // metadata.block_size
        blocks = -(-metadata.disk_size // metadata.block_size)
        if metadata.has_parent:
            self.entries = -(-blocks // self._ratio) * (self._ratio + 1)
        else:
            self.entries = blocks + (blocks - 1) // self._ratio
        self._blocks = blocks
        self.allocated = 0
        self._present = 0

    def check(self) -> None:
        for index, entry in self._nonzero():
            offset = self._start + index * 8
            if entry & _RESERVED:
                self._findings.error(
                    "bat-reserved", f"BAT entry {index} is {entry:#x}: reserved bits", offset
                )
            if index % (self._ratio + 1) == self._ratio:
                self._check_bitmap(index, entry, offset)
            else:
                self._check_block(index - index // (self._ratio + 1), entry, offset)
        if self._metadata.fixed and self._present < self._blocks:
            self._findings.warn(
                "fixed-absent",
                f"{self._blocks - self._present} blocks of this fixed disk are not allocated",
                self._start,
            )
        free = self._file.free()
        if free:
            self._findings.note("unused-space", f"{free} MiB of the file belong to nothing")

    def _nonzero(self) -> Iterator[tuple[int, int]]:
        """Yield index and value of the entries that are not zero."""
        size = self.entries * 8
        for at in range(0, size, _PIECE):
            raw = self._view.read(self._start + at, min(_PIECE, size - at))
            if raw == _ZEROS[: len(raw)]:
                continue
            for index, (entry,) in enumerate(struct.iter_unpack("<Q", raw), at // 8):
                if entry:
                    yield index, entry

    def _check_block(self, block: int, entry: int, offset: int) -> None:
        """Check the entry of a payload block."""
        state, unit = entry & _STATE, entry >> 20
        if state in _INVALID or (state == _PARTIAL and not self._metadata.has_parent):
            self._findings.error("bat-state", f"block {block} has state {state}", offset)
        elif state in (_PRESENT, _PARTIAL):
            self._present += 1
            size = self._metadata.block_size
            self.allocated += max(0, min(size, self._metadata.disk_size - block * size))
            self._claim(f"block {block}", unit, size, offset)
        elif unit and state in (_UNDEFINED, _UNMAPPED):
            # Trimmed blocks may keep their room; nobody else may be given it meanwhile.
            self._claim(f"trimmed block {block}", unit, self._metadata.block_size, offset)
        elif unit:
            self._findings.warn(
                "bat-stale-offset", f"block {block} is absent but has an offset", offset
            )

    def _check_bitmap(self, index: int, entry: int, offset: int) -> None:
        """Check the entry of a sector bitmap, which only a differencing disk has."""
        state = entry & _STATE
        if state not in (0, _PRESENT):
            self._findings.error("bat-state", f"bitmap entry {index} has state {state}", offset)
        elif state and not self._metadata.has_parent:
            self._findings.error("bat-bitmap", f"entry {index} has a bitmap, no parent", offset)
        elif state:
            self._claim(f"sector bitmap {index}", entry >> 20, MiB, offset)

    def _claim(self, name: str, unit: int, size: int, offset: int) -> None:
        start, end = unit * MiB, unit * MiB + size
        if not unit or unit >= _MAX_UNITS:
            self._findings.error("bat-offset", f"{name} is said to lie at MiB {unit}", offset)
        elif start >= self._view.size:
            self._findings.error(
                "block-beyond-end", f"{name} lies at {start:#x}, beyond the file's end", offset
            )
        elif end > self._view.size:
            self._findings.error(
                "block-cut", f"{name} ends at {end:#x}, the file at {self._view.size:#x}", offset
            )
        elif not self._file.claim(unit, size // MiB):
            self._collision(name, start, end, offset)

    def _collision(self, name: str, start: int, end: int, offset: int) -> None:
        before = bisect_left(self._taken, (end, 0)) - 1
        if before >= 0 and self._taken[before][1] > start:
            self._findings.error(
                "block-in-region", f"{name} at {start:#x} lies over the file's own tables", offset
            )
        else:
            self._findings.error(
                "block-shared", f"{name} at {start:#x} shares room with another block", offset
            )


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges sorted, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
