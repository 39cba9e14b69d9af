# SPDX-License-Identifier: GPL-3.0-or-later
"""Write qcow2 version 3 images, in any order, from several threads, across crashes.

The file only grows: `bound` is its end, space is taken there, never twice, and reads as zeros (see
qcow2_space). Refcounts are not kept while the image grows; `commit` counts them from the tables.
Until then the image carries a feature bit that makes every reader refuse it.

What survives a crash rests on one number, the *durable end* D, kept in a header extension.
`checkpoint` notes `bound`, syncs the data and tables, then writes that `bound` as D, and syncs
again. After a crash any page written since may be old or new, each by itself. Three kinds of entry:

* An L1 entry, or the L2 entry of a plain cluster, that was 0: written at once, under the lock that
  took the space. If it points below D, then D was written after a sync that covers both the entry
  and all acknowledged data behind it. If it points beyond D, it did not exist at the checkpoint,
  and `resume` clears it: that restores the checkpoint's state. It also cuts the file at D, and
  syncs before space is taken again: that reads as zeros then, and no old entry can name it.
* An entry that replaces another (a compressed cluster that is written again, in full or in part),
  and every compressed cluster: kept in memory as *pending* until a checkpoint has made durable what
  it points to and a D beyond that; then it is published and synced. Before, a crash leaves the old
  cluster, whole, with the parts that nobody has written since; after, the new one. So compressed
  entries in the file are always good and need no clearing.
* An entry made 0 or given its zero flag by `zero`: written at once. It covers only what the caller
  zeroed since the checkpoint, and will zero again. A flagged cluster keeps its place, and is
  punched both then and again before the flag is cleared, so its old content can't come back.

Rewriting a plain cluster happens in place; a page of it may be old or new after a crash, and the
caller, which knows what was not yet durable, writes it again.

Replaced compressed clusters stay in the file as dead space. The refcounts say that it is free.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from p2v.images._file import Syncer, allocate, punch, pwrite_all
from p2v.images._partial import create_partial, publish
from p2v.images.base import Buffer, partial_path
from p2v.images.c_qcow2 import (
    COMPRESSED,
    COMPRESSION_TYPE,
    COPIED,
    HEADER_ROOM,
    MAX_CLUSTER_BITS,
    MAX_L1_BYTES,
    SECTOR,
    UNFINISHED,
    ZSTD,
    Header,
    compressed_entry,
    l1_entries,
)
from p2v.images.qcow2 import read_entries
from p2v.images.qcow2_codec import frame_size
from p2v.images.qcow2_refcounts import RefCounts
from p2v.images.qcow2_resume import open_for_resume
from p2v.images.qcow2_space import Qcow2Space
from p2v.model.errors import ImageError, NoRoomError
from p2v.model.units import KiB

PLAIN_CLUSTER = 64 * KiB
COMPRESSED_CLUSTER = 256 * KiB
"""The wire's chunk: one frame of it becomes one compressed cluster."""

_MAX_PENDING = 32768
"""Entries in memory (about 5 MiB) before a write makes a checkpoint by itself."""
_STRIPES = 64


class Qcow2Writer(Qcow2Space):
    """A qcow2 image being written; see the module for what a crash leaves."""

    def __init__(self, fd: int, path: Path, header: Header, l1: array[int], bound: int) -> None:
        super().__init__(fd, path, header, l1, bound)
        self.partial = partial_path(path)
        self._syncer = Syncer(fd)
        self._durable = bound
        self._finished = False
        self._syncing = threading.Lock()
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]
        """Shared out among the clusters that are being replaced; taken before the other locks."""

    @staticmethod
    def create(
        path: Path,
        size: int,
        *,
        cluster_size: int | None = None,
        compressed: bool = False,
        sector_size: int = SECTOR,
    ) -> Qcow2Writer:
        """Create an empty image of `size` bytes.

        qcow2 does not store the sector size; the disk is only held to whole sectors of it.

        Raises:
            ImageError: the image exists, or the format can't hold this disk.
            NoRoomError: the file system is full.
        """
        cluster = cluster_size or (COMPRESSED_CLUSTER if compressed else PLAIN_CLUSTER)
        header = _new_header(path, size, cluster, max(sector_size, SECTOR), compressed)
        bound = header.durable or 0
        fd = create_partial(path)
        try:
            allocate(fd, 0, bound)
            pwrite_all(fd, 0, header.pack())
            os.fsync(fd)
        except BaseException:
            partial_path(path).unlink()
            os.close(fd)
            raise
        l1 = array("Q", bytes(8 * header.l1_size))
        kind = Qcow2ZstdWriter if compressed else Qcow2Writer
        return kind(fd, path, header, l1, bound)

    @staticmethod
    def resume(path: Path) -> Qcow2Writer:
        """Open an unfinished image at its last checkpoint, or a finished one for another pass.

        Raises:
            ImageError: there is none, it is in use, damaged, or holds what this can't rewrite.
        """
        fd, header, l1, bound = open_for_resume(path)
        kind = Qcow2ZstdWriter if header.compression == ZSTD else Qcow2Writer
        return kind(fd, path, header, l1, bound)

    def write(self, offset: int, data: Buffer) -> None:
        """Store `data` at `offset`.

        Raises:
            NoRoomError: the file system is full; the image stays consistent, write again later.
            ImageError: the range leaves the disk.
        """
        view = memoryview(data).cast("B")
        self._check_write(offset, len(view))
        while view:
            host, count = self._place(offset, len(view))
            if host:
                pwrite_all(self._fd, host, view[:count])
            else:
                count = min(len(view), self.cluster_size - offset % self.cluster_size)
                self._unpack(offset, view[:count])
            view = view[count:]
            offset += count

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros; whole clusters give their room back.

        What was never written costs nothing, however long it is.

        Raises:
            NoRoomError: a part of a compressed cluster had to be stored anew; zero again later.
            ImageError: the range leaves the disk.
        """
        self._check_write(offset, length)
        end = offset + length
        while offset < end:
            first = offset >> self._bits
            with self._lock:
                count, entries = self._slice(first, (end - 1 >> self._bits) + 1 - first)
            for cluster in range(first, first + count) if entries is not None else ():
                start = max(offset, cluster << self._bits)
                stop = min(end, cluster + 1 << self._bits)
                if entries is not None and self._where(entries[cluster - first]):
                    self._clear(start, stop - start)
            offset = min(end, first + count << self._bits)

    def checkpoint(self) -> None:
        """Make durable all that was written before the call.

        Raises:
            NoRoomError: the file system is full; nothing is lost unless a sync failed.
        """
        with self._syncing:
            with self._lock:
                bound, pending = self.bound, dict(self._pending)
            self._syncer.sync()
            if bound != self._durable:
                self._header = replace(self._header, durable=bound)
                pwrite_all(self._fd, 0, self._header.pack())
                self._syncer.sync()
                self._durable = bound
            if pending:
                self._publish_entries(pending)
                self._syncer.sync()

    def commit(self) -> None:
        """Finish the image: exact refcounts, durable, valid, and under its final name.

        Nothing may be written meanwhile or afterwards.

        Raises:
            NoRoomError: no room for the refcounts; free some and commit again.
            ImageError: the tables are damaged, or an image of that name appeared meanwhile.
        """
        if not self._finished:
            self.checkpoint()
            with self._syncing, self._lock:
                self._finish()
        self._syncer.sync()
        publish(self.path)

    def _finish(self) -> None:
        """Write the refcounts, then the header that makes the image one that readers take."""
        os.truncate(self._fd, self.bound)
        counts = RefCounts(self._fd, self.path, self.bound, self._bits)
        header = replace(
            self._header,
            incompatible=self._header.incompatible & ~UNFINISHED,
            refcount_offset=counts.table_offset,
            refcount_clusters=counts.table_clusters,
            durable=None,
        )
        try:
            counts.reserve()
            self._count(counts)
            counts.write()
            self._syncer.sync()
            pwrite_all(self._fd, 0, header.pack())
        except BaseException:
            os.truncate(self._fd, self.bound)  # fresh space must read as zeros again
            raise
        self._header, self._finished = header, True

    def _check_write(self, offset: int, length: int) -> None:
        """Refuse a range that leaves the disk, and any once the image is finished."""
        self._check_range(offset, length)
        if self._finished:
            raise ImageError(path=self.path, problem="it is committed; resume it to write more")

    @contextmanager
    def _stripe(self, cluster: int) -> Iterator[int]:
        """Hold off others that replace the cluster; gives its entry."""
        with self._stripes[cluster % _STRIPES]:
            yield self._entry(cluster)

    def _unpack(self, offset: int, data: memoryview | bytes) -> None:
        """Write into a compressed cluster, which becomes a plain one at another place."""
        cluster, inside = offset >> self._bits, offset & (self.cluster_size - 1)
        with self._stripe(cluster) as entry:
            if entry & COMPRESSED:
                content = data
                if len(data) < self.cluster_size:
                    whole = bytearray(self._decode(offset, entry))
                    whole[inside : inside + len(data)] = data
                    content = memoryview(whole)
                with self._lock:
                    host = self._take(1)
                pwrite_all(self._fd, host, content)
                with self._lock:
                    self._pending[cluster] = host | COPIED
                self._relieve()
                return
        self.write(offset, data)  # another thread unpacked or dropped it meanwhile

    def _clear(self, offset: int, length: int) -> None:
        """Zero a part, or all, of one cluster that holds something."""
        cluster, whole = offset >> self._bits, self._is_whole(offset, length)
        with self._stripe(cluster) as entry:
            if whole:
                self._drop(cluster)
                return
            if not entry & COMPRESSED:
                if where := self._where(entry):
                    punch(self._fd, where + offset % self.cluster_size, length)
                return
        self._unpack(offset, bytes(length))

    def _is_whole(self, offset: int, length: int) -> bool:
        """Tell whether the range is all that its cluster has of the disk."""
        if offset % self.cluster_size:
            return False
        return length == self.cluster_size or offset + length == self.size

    def _relieve(self) -> None:
        """Make a checkpoint when too many entries wait for one."""
        if len(self._pending) >= _MAX_PENDING:
            self.checkpoint()

    def _count(self, counts: RefCounts) -> None:
        """Count every reference in the image but those of the counters themselves."""
        counts.claim(0, HEADER_ROOM)
        counts.claim(self._header.l1_offset, 8 * self._header.l1_size)
        for index in range(len(self._l1)):
            if table := self._table(index):
                counts.claim(table, self.cluster_size)
                entries = read_entries(self._fd, table, self._header.table_entries)
                if any(entries):
                    counts.count_table(entries)


class Qcow2ZstdWriter(Qcow2Writer):
    """A qcow2 image that keeps zstd frames as they are; whatever else is written stays plain."""

    def write_zstd(self, offset: int, length: int, frame: Buffer) -> bool:
        """Store the frame of `length` bytes at `offset` as one compressed cluster, byte for byte.

        Returns False, having done nothing, unless the frame holds exactly one whole cluster, says
        so in its header, needs no dictionary and is smaller than the cluster. The frame's content
        is not checked.

        Raises:
            NoRoomError: the file system is full; write again later.
        """
        self._check_write(offset, length)
        data = memoryview(frame).cast("B")
        if length != self.cluster_size or offset % length or len(data) >= length:
            return False
        if frame_size(data) != length:
            return False
        cluster = offset >> self._bits
        with self._stripe(cluster):
            with self._lock:
                host = self._take_bytes(len(data))
            try:
                pwrite_all(self._fd, host, data)
            except NoRoomError:
                with self._lock:
                    self._give_back(host, len(data))
                raise
            with self._lock:
                self._l2(cluster)  # the checkpoint's bound must cover the table of its entries
                self._pending[cluster] = compressed_entry(host, len(data), self._bits)
        self._relieve()
        return True


def _new_header(path: Path, size: int, cluster: int, sector: int, compressed: bool) -> Header:
    """Return the header of an empty image.

    Raises:
        ImageError: the format can't hold this disk.
    """
    if size <= 0 or size % sector:
        problem = f"a qcow2 disk is whole sectors, and {size} bytes are no multiple of {sector}"
        raise ImageError(path=path, problem=problem)
    if cluster & (cluster - 1) or not SECTOR <= cluster <= 1 << MAX_CLUSTER_BITS:
        raise ImageError(path=path, problem=f"clusters of {cluster} bytes are no power of two")
    bits = cluster.bit_length() - 1
    l1_size = l1_entries(size, bits)
    if l1_size * 8 > MAX_L1_BYTES:
        problem = f"a disk of {size} bytes needs larger clusters than {cluster}"
        raise ImageError(path=path, problem=problem)
    return Header(
        size=size,
        cluster_bits=bits,
        l1_size=l1_size,
        l1_offset=cluster,
        incompatible=UNFINISHED | (COMPRESSION_TYPE if compressed else 0),
        compression=ZSTD if compressed else 0,
        durable=cluster + -(-l1_size * 8 // cluster) * cluster,
    )
