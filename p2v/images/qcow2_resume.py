# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a qcow2 image for more writing: one that a crash left, or a finished one.

The module qcow2_writer says why clearing the entries beyond the durable end is enough.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import replace
from pathlib import Path

from p2v.images._file import pwrite_all
from p2v.images._partial import reopen, withdraw
from p2v.images.c_qcow2 import (
    COMPRESSED,
    COMPRESSION_TYPE,
    COPIED,
    INCOMPLETE,
    OFFSET_MASK,
    UNFINISHED,
    Header,
    compressed_extent,
)
from p2v.images.qcow2 import check_readable, load_l1, read_entries, read_header
from p2v.model.errors import ImageError

_SLICE = 8192


def open_for_resume(path: Path) -> tuple[int, Header, array[int], int]:
    """Return the locked descriptor, header, L1 table and end of an image that may be written now.

    A finished image is marked unfinished again, durably, before this returns; one that a crash
    left is back at its last checkpoint.

    Raises:
        ImageError: there is none, it is in use, damaged, or holds what the writer can't keep.
    """
    fd = reopen(path)
    try:
        header = read_header(fd, path)
        if header.incompatible & INCOMPLETE:
            return fd, header, *_roll_back(fd, path, header)
        return _take_up(fd, path, header)
    except BaseException:
        os.close(fd)
        raise


def _take_up(fd: int, path: Path, header: Header) -> tuple[int, Header, array[int], int]:
    """Check a finished image and mark it unfinished."""
    check_readable(header, path)
    _check_rewritable(header, path)
    end = os.lseek(fd, 0, os.SEEK_END)
    bound = -(-end // header.cluster_size) * header.cluster_size
    l1 = load_l1(fd, path, header, end)
    _Scan(fd, path, header, l1, bound).run(clear=False)
    header = replace(
        header,
        version=3,
        incompatible=UNFINISHED | header.incompatible & COMPRESSION_TYPE,
        refcount_offset=0,
        refcount_clusters=0,
        durable=bound,
    )
    withdraw(path)
    pwrite_all(fd, 0, header.pack())
    os.truncate(fd, bound)
    os.fsync(fd)
    return fd, header, l1, bound


def _roll_back(fd: int, path: Path, header: Header) -> tuple[array[int], int]:
    """Bring an unfinished image back to its last checkpoint; return its L1 table and end."""
    check_readable(replace(header, incompatible=header.incompatible & ~UNFINISHED), path)
    bound = header.durable
    if bound is None or bound % header.cluster_size:
        raise ImageError(path=path, problem="its header does not say where its durable part ends")
    l1 = load_l1(fd, path, header, bound)
    _Scan(fd, path, header, l1, bound).run(clear=True)
    os.truncate(fd, bound)
    os.fsync(fd)
    return l1, bound


def _check_rewritable(header: Header, path: Path) -> None:
    """Refuse a finished image that holds what writing it anew would lose."""
    problems = []
    if header.version < 3:
        problems.append("it is of version 2")
    if header.snapshots:
        problems.append("it has internal snapshots")
    if header.bitmaps:
        problems.append("it has persistent bitmaps")
    if problems:
        raise ImageError(path=path, problem=f"{' and '.join(problems)}, so it can't be resumed")


class _Scan:
    """Goes over all tables of an image whose content ends at `bound`."""

    def __init__(self, fd: int, path: Path, header: Header, l1: array[int], bound: int) -> None:
        self._fd = fd
        self._path = path
        self._header = header
        self._l1 = l1
        self._bound = bound

    def run(self, *, clear: bool) -> None:
        """Hold every entry against the bound.

        With `clear`, plain entries beyond it are made 0, in the file and in the L1 table.

        Raises:
            ImageError: an entry is damaged, or beyond the bound without `clear`.
        """
        for index, entry in enumerate(self._l1):
            table = entry & OFFSET_MASK
            if table == 0:
                continue
            if self._is_beyond(entry, clear):
                self._l1[index] = 0
                self._reset(self._header.l1_offset + 8 * index)
                continue
            for first in range(0, self._header.table_entries, _SLICE):
                count = min(_SLICE, self._header.table_entries - first)
                self._run_slice(table + 8 * first, count, clear)

    def _run_slice(self, offset: int, count: int, clear: bool) -> None:
        """Hold a part of an L2 table against the bound."""
        entries = read_entries(self._fd, offset, count)
        if not any(entries):
            return
        expected, last = -1, self._bound - self._header.cluster_size | COPIED
        for index, entry in enumerate(entries):
            if entry == expected and entry <= last:  # the next one of a run: nearly all are
                expected += self._header.cluster_size
                continue
            if entry & COMPRESSED:
                self._check_compressed(entry)
            elif entry & OFFSET_MASK:
                if self._is_beyond(entry, clear):
                    self._reset(offset + 8 * index)
                expected = entry + self._header.cluster_size

    def _is_beyond(self, entry: int, clear: bool) -> bool:
        """Tell whether an L1 or plain L2 entry has to be cleared."""
        where = entry & OFFSET_MASK
        if where % self._header.cluster_size or not entry & COPIED:
            raise ImageError(path=self._path, problem=f"its table entry {entry:#x} is damaged")
        if where + self._header.cluster_size <= self._bound:
            return False
        if not clear:
            raise ImageError(path=self._path, problem=f"a cluster at {where} is out of bounds")
        return True

    def _check_compressed(self, entry: int) -> None:
        """Refuse a compressed cluster that leaves the bound; none is ever cleared."""
        where, length = compressed_extent(entry, self._header.cluster_bits)
        if entry & COPIED or where + length > self._bound:
            raise ImageError(path=self._path, problem=f"its table entry {entry:#x} is damaged")

    def _reset(self, offset: int) -> None:
        """Make a table entry 0."""
        pwrite_all(self._fd, offset, struct.pack(">Q", 0))
