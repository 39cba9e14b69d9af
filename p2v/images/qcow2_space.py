# SPDX-License-Identifier: GPL-3.0-or-later
"""Take space in a growing qcow2 image and enter it into the tables.

The file only grows and space is never taken twice, so what is fresh reads as zeros: a new L2 table
is empty, a new cluster needs no padding. The module qcow2_writer says which entries are written at
once and which wait for a checkpoint, and why.
"""

from __future__ import annotations

import struct
import sys
import threading
from array import array
from pathlib import Path

from p2v.images._file import allocate, punch, pwrite_all
from p2v.images.c_qcow2 import COMPRESSED, COPIED, OFFSET_MASK, ZERO, Header
from p2v.images.qcow2 import Qcow2Map, run_length

_FRAME_ALIGN = 64
"""Keeps the frames in a cluster of 2 MiB below what a 16-bit refcount holds."""
_MAX_RUN = 4096
"""Clusters placed under the lock in one go."""


class Qcow2Space(Qcow2Map):
    """The tables of an image that is being written, and the space behind them.

    Nothing here moves data; the lock is held for lookups and entries only.
    """

    def __init__(self, fd: int, path: Path, header: Header, l1: array[int], bound: int) -> None:
        super().__init__(fd, path, header, l1, bound)
        self._lock = threading.RLock()
        """Guards `bound`, the tables and `_pending`."""
        self._pending: dict[int, int] = {}
        """Entries, by cluster, that replace others and wait for a checkpoint."""
        self._packed = self._packed_end = 0

    def _slice(self, first: int, count: int) -> tuple[int, array[int] | None]:
        """Look up entries, with those that wait for a checkpoint."""
        with self._lock:
            count, entries = super()._slice(first, count)
            if not self._pending or self._table(first // self._header.table_entries) == 0:
                return count, entries
            for cluster in range(first, first + count):
                entry = self._pending.get(cluster)
                if entry is not None:
                    if entries is None:
                        entries = array("Q", bytes(8 * count))
                    entries[cluster - first] = entry
            return count, entries

    def _entry(self, cluster: int) -> int:
        """Return the entry that counts for a cluster."""
        entries = self._slice(cluster, 1)[1]
        return entries[0] if entries else 0

    def _place(self, offset: int, length: int) -> tuple[int, int]:
        """Return where a write goes on the host, and how many of `length` bytes go there.

        The host offset is 0 where a compressed cluster has to be unpacked first.
        """
        first = offset >> self._bits
        wanted = min((offset + length - 1 >> self._bits) + 1 - first, _MAX_RUN)
        inside = offset & (self.cluster_size - 1)
        with self._lock:
            count, entries = self._slice(first, wanted)
            if entries is None:
                host, run = self._take_clusters(first, min(count, wanted)), min(count, wanted)
            elif entries[0] & COMPRESSED:
                return 0, 0
            elif entries[0] & ZERO:
                host, run = self._revive(first, entries[0]), 1
            elif entries[0]:
                host = entries[0] & OFFSET_MASK
                run = run_length(entries, 0, self.cluster_size)
            else:
                run = run_length(entries, 0, 0)
                host = self._take_clusters(first, run)
        return host + inside, min(length, run * self.cluster_size - inside)

    def _take(self, clusters: int) -> int:
        """Take fresh host clusters at the end of the file."""
        host = self.bound
        self.bound += clusters * self.cluster_size
        return host

    def _take_clusters(self, first: int, count: int) -> int:
        """Take a run of plain clusters and enter it into an L2 table; return its host offset."""
        table = self._l2(first)
        host = self._take(count)
        entries = array(
            "Q",
            range(host | COPIED, (host + count * self.cluster_size) | COPIED, self.cluster_size),
        )
        self._put(table, first, entries)
        return host

    def _l2(self, cluster: int) -> int:
        """Return the offset of the L2 table for a cluster, made if there is none."""
        index = cluster // self._header.table_entries
        table = self._table(index)
        if table == 0:
            allocate(self._fd, self.bound, self.cluster_size)
            table = self._take(1)
            pwrite_all(self._fd, self._header.l1_offset + 8 * index, _packed(table | COPIED))
            self._l1[index] = table | COPIED
        return table

    def _put(self, table: int, cluster: int, entries: array[int]) -> None:
        """Write entries, which are used up, into an L2 table."""
        if sys.byteorder == "little":
            entries.byteswap()
        inside = cluster % self._header.table_entries
        pwrite_all(self._fd, table + 8 * inside, memoryview(entries))

    def _revive(self, cluster: int, entry: int) -> int:
        """Clear the zero flag of a cluster, whose place then reads as zeros; return the place."""
        host = entry & OFFSET_MASK
        if host == 0:
            return self._take_clusters(cluster, 1)
        punch(self._fd, host, self.cluster_size)
        self._put(self._l2(cluster), cluster, array("Q", [host | COPIED]))
        return host

    def _take_bytes(self, length: int) -> int:
        """Take room for a frame behind the one before, in the same host cluster if it can be."""
        room = _frame_room(length)
        if self._packed + room > self._packed_end:
            if self._packed_end != self.bound:
                self._packed = self._packed_end = self.bound
            short = self._packed + room - self._packed_end
            self._take(-(-short // self.cluster_size))
            self._packed_end = self.bound
        host = self._packed
        self._packed += room
        return host

    def _give_back(self, host: int, length: int) -> None:
        """Return the room of a frame that could not be written, if it was the last one taken."""
        if self._packed == host + _frame_room(length):
            self._packed = host

    def _drop(self, cluster: int) -> None:
        """Make a cluster read as zeros and give its room back."""
        with self._lock:
            self._pending.pop(cluster, None)
            _, entries = super()._slice(cluster, 1)
            if entries is None:
                return
            entry = entries[0]
            plain = 0 if entry & COMPRESSED else entry & OFFSET_MASK
            self._put(self._l2(cluster), cluster, array("Q", [entry | ZERO if plain else 0]))
            if plain:
                punch(self._fd, plain, self.cluster_size)

    def _publish_entries(self, pending: dict[int, int]) -> None:
        """Write the entries whose clusters are durable, unless they were replaced again."""
        for cluster, entry in sorted(pending.items()):
            with self._lock:
                if self._pending.get(cluster) == entry:
                    self._put(self._l2(cluster), cluster, array("Q", [entry]))
                    del self._pending[cluster]


def _frame_room(length: int) -> int:
    """Return the bytes that a frame of `length` takes."""
    return -(-length // _FRAME_ALIGN) * _FRAME_ALIGN


def _packed(entry: int) -> bytes:
    """Return a table entry as bytes."""
    return struct.pack(">Q", entry)
