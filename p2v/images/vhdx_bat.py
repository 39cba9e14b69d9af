# SPDX-License-Identifier: GPL-3.0-or-later
"""The block allocation table: which payload block lies where in the file ([MS-VHDX] 2.5).

The table stays in the file; entries are read and written in place and the kernel's page cache does
the caching. It has no checksum, so an entry is checked whenever it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from threading import Lock

from p2v.images import c_vhdx as c
from p2v.images._file import pwrite_all, stored
from p2v.images.vhdx_layout import Layout
from p2v.images.vhdx_view import FileView

_PRESENT = c.BlockState.FULLY_PRESENT.value
_ABSENT = frozenset(
    state.value
    for state in (
        c.BlockState.NOT_PRESENT,
        c.BlockState.UNDEFINED,
        c.BlockState.ZERO,
        c.BlockState.UNMAPPED,
    )
)


class Bat:
    """The payload entries of a disk without parent; safe for several threads.

    A lock is held while bytes of the table are copied: the kernel does not promise that an entry
    read while it is written is wholly the old or wholly the new one.
    """

    def __init__(self, view: FileView, layout: Layout) -> None:
        self._view = view
        self._table = layout.bat
        self._disk = layout.disk
        self._reserved = layout.reserved
        self._ratio = layout.disk.chunk_ratio
        self._lock = Lock()

    def find(self, block: int) -> int | None:
        """Return the byte of the file where `block` begins; None where it reads as zeros.

        Raises:
            ImageError: the entry is not allowed.
        """
        raw = bytearray(c.BAT_ENTRY.size)
        with self._lock:
            self._view.readinto(self._position(block), raw)
        return self.place(block, int.from_bytes(raw, "little"))

    def put(self, block: int, position: int) -> None:
        """Let `block` be stored at byte `position` of the file."""
        self._write(block, position | _PRESENT)

    def drop(self, block: int) -> None:
        """Let `block` read as zeros."""
        self._write(block, c.BlockState.NOT_PRESENT)

    def runs(self, first: int, last: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the raw entries of the blocks `first` <= n < `last`, in order and in pieces.

        Each piece comes with the number of its first block, and covers at most one chunk (2.5),
        256 KiB of table.
        """
        while first < last:
            stop = min(last, (first // self._ratio + 1) * self._ratio)
            raw = bytearray((stop - first) * c.BAT_ENTRY.size)
            with self._lock:
                self._view.readinto(self._position(first), raw)
            yield first, struct.unpack(f"<{stop - first}Q", raw)
            first = stop

    def written(self) -> Iterator[tuple[int, int]]:
        """Yield (block, raw entry) of every entry that is not zero; skips holes of the file."""
        size = c.BAT_ENTRY.size
        for start, stop in stored(self._view.fd, self._table.offset, self._disk.bat_length):
            first = self._block_at((start - self._table.offset) // size)
            last = self._block_at(-(-(stop - self._table.offset) // size))
            for block, entries in self.runs(first, min(last, self._disk.blocks)):
                if any(entries):
                    yield from (each for each in enumerate(entries, block) if each[1])

    def place(self, block: int, entry: int) -> int | None:
        """Return where an entry says that `block` begins; None where it reads as zeros.

        Raises:
            ImageError: the entry is not allowed.
        """
        state, position = entry & c.STATE_MASK, entry & c.OFFSET_MASK
        if entry & c.RESERVED_MASK or (state != _PRESENT and state not in _ABSENT):
            self._view.refuse(f"the table entry of block {block} is not allowed: {entry:#018x}")
        if state != _PRESENT:
            return None
        size = self._disk.block_size
        used = min(size, self._disk.size - block * size)
        if position + used > self._view.size:
            self._view.refuse(
                f"block {block} lies beyond the file's end: {used} bytes at byte {position}"
            )
        for region in self._reserved:
            if position < region.end and region.offset < position + size:
                self._view.refuse(f"block {block} lies over the file's structures: {position}")
        return position

    def _position(self, block: int) -> int:
        return self._table.offset + (block + block // self._ratio) * c.BAT_ENTRY.size

    def _block_at(self, index: int) -> int:
        """Return the first block whose entry is at `index` of the table, or behind it."""
        chunk, within = divmod(index, self._ratio + 1)
        return chunk * self._ratio + min(within, self._ratio)

    def _write(self, block: int, entry: int) -> None:
        with self._lock:
            pwrite_all(self._view.fd, self._position(block), c.BAT_ENTRY.pack(entry))
