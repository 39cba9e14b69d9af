# SPDX-License-Identifier: GPL-3.0-or-later
"""Count the references of a qcow2 image's clusters and write them as refcount blocks and table.

The blocks of an image written here lie one after the other, so that together they are one flat
array of 16-bit counters, indexed by host cluster; the table that names them follows. Counters are
changed in pieces of 64 KiB, of which a fixed number is in memory: the order of host clusters mostly
follows that of guest clusters, so a piece is rarely needed twice.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from p2v.images._file import allocate, pread_exact, pwrite_all
from p2v.images.c_qcow2 import COMPRESSED, MAX_REFCOUNT_TABLE_BYTES, OFFSET_MASK, compressed_extent
from p2v.model.errors import ImageError
from p2v.model.units import KiB

_PIECE = 64 * KiB
_PER_PIECE = _PIECE // 2
_KEPT = 512
"""Pieces in memory: 32 MiB, the counters of 1 TiB of 64 KiB clusters."""


class RefCounts:
    """The counters of an image of `used` bytes, to be placed right behind them.

    Attributes:
        table_offset: where the refcount table goes, a cluster boundary.
        table_clusters: its length.
        end: the end of the file with all of this.
    """

    def __init__(self, fd: int, path: Path, used: int, cluster_bits: int) -> None:
        self._fd = fd
        self._path = path
        self._bits = cluster_bits
        self._pieces: OrderedDict[int, array[int]] = OrderedDict()
        self._offset = used
        cluster = 1 << cluster_bits
        blocks = 0
        while True:  # they count themselves: grow until they suffice
            self.table_clusters = -(-blocks * 8 // cluster)
            total = (used >> cluster_bits) + blocks + self.table_clusters
            if total * 2 <= blocks * cluster:
                break
            blocks = -(-total * 2 // cluster)
        self._blocks = blocks
        self.table_offset = used + blocks * cluster
        self.end = total * cluster
        if self.table_clusters * cluster > MAX_REFCOUNT_TABLE_BYTES:
            problem = f"{used} bytes are too many for clusters of {cluster}"
            raise ImageError(path=path, problem=problem)

    def reserve(self) -> None:
        """Take the room for all counters, which must read as zeros.

        Raises:
            NoRoomError: the file system is full.
        """
        allocate(self._fd, self._offset, self.end - self._offset)

    def claim(self, offset: int, length: int) -> None:
        """Count whole clusters that may have one user only.

        Raises:
            ImageError: one of them is in use already; the image is damaged.
        """
        cluster, end = offset >> self._bits, (offset + length - 1 >> self._bits) + 1
        while cluster < end:
            index, inside = divmod(cluster, _PER_PIECE)
            count = min(end - cluster, _PER_PIECE - inside)
            piece = self._piece(index)
            if any(piece[inside : inside + count]):
                problem = f"two things share a cluster near byte {cluster << self._bits}"
                raise ImageError(path=self._path, problem=problem)
            piece[inside : inside + count] = array("H", [1]) * count
            cluster += count

    def share(self, offset: int, length: int) -> None:
        """Count one more user of each cluster that the range touches."""
        for cluster in range(offset >> self._bits, (offset + length - 1 >> self._bits) + 1):
            self._piece(cluster // _PER_PIECE)[cluster % _PER_PIECE] += 1

    def count_table(self, entries: Iterable[int]) -> None:
        """Count what the entries of an L2 table use; neighbours are counted as one range."""
        cluster = 1 << self._bits
        start = end = 0
        for entry in entries:
            if entry & COMPRESSED:
                self.share(*compressed_extent(entry, self._bits))
            elif where := entry & OFFSET_MASK:
                if where != end:
                    if end:
                        self.claim(start, end - start)
                    start = where
                end = where + cluster
        if end:
            self.claim(start, end - start)

    def write(self) -> None:
        """Count the counters' own clusters and write everything."""
        self.claim(self._offset, self.end - self._offset)
        for index, piece in self._pieces.items():
            self._store(index, piece)
        self._pieces.clear()
        cluster = 1 << self._bits
        table = array("Q", (self._offset + block * cluster for block in range(self._blocks)))
        if sys.byteorder == "little":
            table.byteswap()
        pwrite_all(self._fd, self.table_offset, memoryview(table))

    def _piece(self, index: int) -> array[int]:
        """Return a piece of the counters, in memory."""
        piece = self._pieces.get(index)
        if piece is None:
            if len(self._pieces) >= _KEPT:
                self._store(*self._pieces.popitem(last=False))
            piece = self._pieces[index] = self._load(index)
        self._pieces.move_to_end(index)
        return piece

    def _load(self, index: int) -> array[int]:
        """Read a piece; the last one may be cut short by the blocks' end."""
        piece = array("H", bytes(min(_PIECE, self.table_offset - self._offset - index * _PIECE)))
        pread_exact(self._fd, self._offset + index * _PIECE, memoryview(piece).cast("B"))
        if sys.byteorder == "little":
            piece.byteswap()
        return piece

    def _store(self, index: int, piece: array[int]) -> None:
        """Write a piece back; it is not used afterwards."""
        if sys.byteorder == "little":
            piece.byteswap()
        pwrite_all(self._fd, self._offset + index * _PIECE, memoryview(piece))
