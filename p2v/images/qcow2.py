# SPDX-License-Identifier: GPL-3.0-or-later
"""Read qcow2 images, versions 2 and 3 (QEMU's docs/interop/qcow2.txt).

Guest cluster -> L1 entry -> L2 table -> host cluster. The L1 table is in memory (QEMU allows 32 MiB
at most, a 64 TiB disk of 64 KiB clusters needs 1 MiB); L2 tables are read where they are needed and
the kernel's page cache keeps them. Every offset is held against the file's size before it is used.

Refused, because what they hold is not in this one file or not readable without more: backing files,
external data files, encryption, extended L2 entries, unknown incompatible features.
"""

from __future__ import annotations

import os
import sys
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from p2v.images._file import pread_exact, pread_some
from p2v.images.c_qcow2 import (
    COMPRESSED,
    COMPRESSION_TYPE,
    CORRUPT,
    DATA_FILE,
    DIRTY,
    EXTENDED_L2,
    INCOMPLETE,
    MAGIC,
    MAX_L1_BYTES,
    OFFSET_MASK,
    SECTOR,
    ZERO,
    Header,
    compressed_extent,
    l1_entries,
    parse_header,
)
from p2v.images.qcow2_codec import DamagedClusterError, decompress
from p2v.model.errors import ImageError, ImageIncompleteError
from p2v.model.extent import Extent
from p2v.model.plan import ImageFormat
from p2v.model.units import KiB

_SLICE = 8192
"""L2 entries looked at in one go: 64 KiB."""
_NEEDS = {
    DATA_FILE: "its data is in another file (external data file)",
    EXTENDED_L2: "it uses extended L2 entries (subclusters)",
    CORRUPT: "it is marked corrupt",
}


def detect(data: bytes) -> bool:
    """Return whether a file that starts with `data` is qcow2."""
    return data.startswith(MAGIC)


class Qcow2Map:
    """Guest offsets to what the file holds there: the part that reader and writer share.

    Attributes:
        bound: the end of what the file may hold; nothing beyond it is ever read.
    """

    format = ImageFormat.QCOW2
    sector_size = SECTOR

    def __init__(self, fd: int, path: Path, header: Header, l1: array[int], bound: int) -> None:
        self.path = path
        self.size = header.size
        self.bound = bound
        self.cluster_size = header.cluster_size
        self._fd = fd
        self._header = header
        self._bits = header.cluster_bits
        self._l1 = l1
        self._decoded = threading.local()

    def readinto(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on; absent clusters read as zeros.

        Raises:
            ImageError: the range leaves the disk, or the image is damaged there.
        """
        view = memoryview(buffer).cast("B")
        for start, length, where in self._pieces(offset, len(view)):
            target = view[start - offset :][:length]
            if where == 0:
                target[:] = bytes(length)
            elif where & COMPRESSED:
                inside = start & (self.cluster_size - 1)
                target[:] = self._decode(start, where)[inside : inside + length]
            else:
                self._read_plain(where, target)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """Yield the range's extents in order, without gaps; `zero` where nothing is stored."""
        start, end, zero = offset, offset, True
        for piece, count, where in self._pieces(
            offset, self.size - offset if length is None else length
        ):
            if (where == 0) != zero:
                if end > start:
                    yield Extent(start, end - start, zero)
                start, zero = piece, where == 0
            end = piece + count
        if end > start:
            yield Extent(start, end - start, zero)

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (offset, length, where) over the range.

        `where` is 0 for zeros, a host offset, or the L2 entry of one compressed cluster.
        """
        self._check_range(offset, length)
        end = offset + length
        while offset < end:
            first = offset >> self._bits
            count, entries = self._slice(first, (end - 1 >> self._bits) + 1 - first)
            stop = min(end, first + count << self._bits)
            if entries is None:
                yield offset, stop - offset, 0
            else:
                yield from self._runs(offset, stop, entries)
            offset = stop

    def _runs(self, offset: int, end: int, entries: array[int]) -> Iterator[tuple[int, int, int]]:
        """Yield the pieces of a range that `entries` map; equal neighbours are merged."""
        base, index = offset & -self.cluster_size, 0
        while index < len(entries):
            where, run = self._where(entries[index]), 1
            if not where & COMPRESSED:
                run = run_length(entries, index, self.cluster_size if where else 0)
            first = base + index * self.cluster_size
            start, stop = max(offset, first), min(end, first + run * self.cluster_size)
            plain = where and not where & COMPRESSED
            yield start, stop - start, where + start - first if plain else where
            index += run

    def _where(self, entry: int) -> int:
        """Return the part of an L2 entry that says where the data is; 0 for zeros."""
        if entry & COMPRESSED:
            return entry
        if entry & ZERO and self._header.version > 2:
            return 0
        where = entry & OFFSET_MASK
        if where & (self.cluster_size - 1):
            raise ImageError(path=self.path, problem=f"a cluster at {where} is not aligned")
        return where

    def _slice(self, first: int, count: int) -> tuple[int, array[int] | None]:
        """Return how many of `count` clusters were looked up, and their L2 entries.

        None stands for clusters that no L2 table maps; they cost nothing however many they are.
        """
        index, inside = divmod(first, self._header.table_entries)
        count = min(count, self._header.table_entries - inside)
        table = self._table(index)
        if table == 0:
            return count, None
        count = min(count, _SLICE)
        entries = read_entries(self._fd, table + 8 * inside, count)
        return count, entries if any(entries) else None

    def _table(self, index: int) -> int:
        """Return the host offset of an L2 table, 0 where there is none."""
        table = self._l1[index] & OFFSET_MASK
        if table & (self.cluster_size - 1) or table + self.cluster_size > self.bound:
            raise ImageError(
                path=self.path, problem=f"L2 table {index} at {table} is out of bounds"
            )
        return table

    def _read_plain(self, where: int, target: memoryview) -> None:
        """Read host bytes; the last cluster may be cut off by the file's end, the rest is zeros."""
        if where + len(target) > self.bound:
            raise ImageError(path=self.path, problem=f"a cluster at {where} is out of bounds")
        done = pread_some(self._fd, where, target)
        target[done:] = bytes(len(target) - done)

    def _decode(self, offset: int, entry: int) -> bytes:
        """Return the cluster that a compressed entry stands for.

        The last one of each thread is kept, for reads smaller than a cluster. What an entry names
        never changes: a compressed cluster is only ever replaced at another place.
        """
        if getattr(self._decoded, "entry", 0) == entry:
            cluster: bytes = self._decoded.cluster
            return cluster
        where, length = compressed_extent(entry, self._bits)
        if where >= self.bound:
            raise ImageError(path=self.path, problem=f"a cluster at {where} is out of bounds")
        data = bytearray(length)
        data = data[: pread_some(self._fd, where, data)]
        try:
            cluster = decompress(self._header.compression, data, self.cluster_size)
        except DamagedClusterError as error:
            problem = f"the compressed cluster for byte {offset} is damaged: {error}"
            raise ImageError(path=self.path, problem=problem) from error
        self._decoded.entry, self._decoded.cluster = entry, cluster
        return cluster

    def _check_range(self, offset: int, length: int) -> None:
        """Refuse a range that leaves the disk."""
        if offset < 0 or length < 0 or offset + length > self.size:
            problem = f"{length} bytes at {offset} leave the disk of {self.size} bytes"
            raise ImageError(path=self.path, problem=problem)


class Qcow2Reader(Qcow2Map):
    """A finished qcow2 image, opened for reading."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the image.

        Raises:
            ImageIncompleteError: it was never committed.
            ImageError: it is no qcow2, damaged, or of a kind that is not read (see the module).
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ImageError(path=path, problem="there is no such image") from None
        try:
            header = read_header(fd, path)
            if header.incompatible & INCOMPLETE:
                raise ImageIncompleteError(path=path)
            check_readable(header, path)
            end = os.lseek(fd, 0, os.SEEK_END)
            bound = -(-end // header.cluster_size) * header.cluster_size
            return cls(fd, path, header, load_l1(fd, path, header, end), bound)
        except BaseException:
            os.close(fd)
            raise


def read_header(fd: int, path: Path) -> Header:
    """Read and parse the header of an open file."""
    data = bytearray(64 * KiB)
    return parse_header(bytes(data[: pread_some(fd, 0, data)]), path)


def check_readable(header: Header, path: Path) -> None:
    """Refuse an image whose disk can't be read from this file alone.

    Raises:
        ImageError: naming what it needs.
    """
    problems = [text for bit, text in _NEEDS.items() if header.incompatible & bit]
    if unknown := header.incompatible & ~(DIRTY | COMPRESSION_TYPE | sum(_NEEDS)):
        problems.append(f"it uses unknown features {unknown:#x}")
    if header.backing:
        problems.append(f"it is an overlay of {header.backing}")
    if header.encryption:
        problems.append("it is encrypted")
    if problems:
        raise ImageError(path=path, problem=" and ".join(problems))


def load_l1(fd: int, path: Path, header: Header, end: int) -> array[int]:
    """Read the L1 table of a file that ends at `end`.

    Raises:
        ImageError: it leaves the file or its limits, or is too small for the disk.
    """
    needed, length = l1_entries(header.size, header.cluster_bits), header.l1_size * 8
    if length > MAX_L1_BYTES or header.l1_size < needed:
        problem = f"an L1 table of {header.l1_size} entries does not fit {header.size} bytes"
        raise ImageError(path=path, problem=problem)
    if header.l1_offset % header.cluster_size or header.l1_offset + length > end:
        raise ImageError(path=path, problem=f"its L1 table at {header.l1_offset} is out of bounds")
    return read_entries(fd, header.l1_offset, header.l1_size)


def run_length(entries: array[int], index: int, step: int) -> int:
    """Return how many entries from `index` on each are the one before plus `step`."""
    expected = entries[index]
    for position in range(index + 1, len(entries)):
        expected += step
        if entries[position] != expected:
            return position - index
    return len(entries) - index


def read_entries(fd: int, offset: int, count: int) -> array[int]:
    """Return `count` big-endian table entries from the file."""
    entries = array("Q", bytes(8 * count))
    pread_exact(fd, offset, memoryview(entries).cast("B"))
    if sys.byteorder == "little":
        entries.byteswap()
    return entries
