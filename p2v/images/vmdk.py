# SPDX-License-Identifier: GPL-3.0-or-later
"""Read VMDK images (VMware's "Virtual Disk Format 5.0"): what comes from VMware, to be taken over.

A VMDK is a text that lists extents, each in a file of its own, or one file that holds its text and
its extent. An extent is flat, or sparse: grain directory -> grain table -> grain, plain or deflated
(`streamOptimized`). One grain table is read at a time; the kernel's page cache keeps them. Whatever
a text names has to be a regular file in the text's own folder.

Refused: snapshots (they need their parent), raw device mappings, and extents of ESX's own kinds
(`VMFSSPARSE`, `SESPARSE`), which only snapshots have.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import threading
import zlib
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from p2v.images._file import pread_exact, pread_some, stored
from p2v.model.errors import ImageError
from p2v.model.extent import Extent
from p2v.model.units import KiB, MiB, TiB

SECTOR = 512
_SPARSE = b"KDMV"
_TEXT = b"# Disk DescriptorFile"
_HEADER = struct.Struct("<4sIIQQQQIQQQB4xH")
_MARKER = struct.Struct("<QI")
_AT_END = (1 << 64) - 1
_FOOTER = 1024
"""From the end of a streamOptimized file; then its header once more, with the directory's place."""
_ZERO_GRAINS = 1 << 2
_COMPRESSED = 1 << 16
_MAX_TEXT = 64 * KiB
_MAX_EXTENTS = 1024
_MAX_DIRECTORY = 8 * MiB
_MAX_SIZE = 64 * TiB
_ONE_FILE = ("monolithicSparse", "streamOptimized")
_LINE = re.compile(
    r'(RW|RDONLY)\s+(\d{1,15})\s+([A-Z]+)(?:\s+"([^"/\\\0]+)"(?:\s+(\d{1,15}))?)?\s*'
)


def detect(data: bytes) -> bool:
    """Return whether a file that starts with `data` is a VMDK, or a part of one."""
    return data.startswith((_SPARSE, _TEXT, b"COWD"))


class _Source(Protocol):
    """The bytes of one extent, from 0 on."""

    def readinto(self, offset: int, view: memoryview) -> None: ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """Where an extent lies on the disk, in bytes."""

    start: int
    length: int
    source: _Source


class VmdkReader:
    """A VMDK, opened for reading as the disk that it holds."""

    sector_size = SECTOR

    def __init__(self, path: Path, parts: list[_Part], files: ExitStack) -> None:
        self.path = path
        self.size = sum(part.length for part in parts)
        self._parts = parts
        self._files = files

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the image and the files that it names.

        Raises:
            ImageError: there is none, it is damaged, or of a kind that is not read.
        """
        with ExitStack() as files:
            fd = _open(path, files)
            head = bytearray(_MAX_TEXT)
            start = bytes(head[: pread_some(fd, 0, head)])
            if start.startswith(_SPARSE):
                sparse = _Sparse(fd, path)
                _check_embedded(sparse)
                parts = [_Part(0, sparse.size, sparse)]
            elif start.startswith(_TEXT):
                parts = list(_parts(path, start, files))
            else:
                problem = "it is a part of a VMDK; give the file that lists the parts"
                raise ImageError(path=path, problem=problem)
            reader = cls(path, parts, files.pop_all())
        if not 0 < reader.size <= _MAX_SIZE:
            reader.close()
            raise ImageError(path=path, problem=f"a disk of {reader.size} bytes is out of bounds")
        return reader

    def readinto(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on; absent grains read as zeros.

        Raises:
            ImageError: the range leaves the disk, or the image is damaged there.
        """
        view = memoryview(buffer).cast("B")
        for part, start, length in self._within(offset, len(view)):
            part.source.readinto(start - part.start, view[start - offset :][:length])

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """Yield the range's extents in order, without gaps; `zero` where nothing is stored."""
        length = self.size - offset if length is None else length
        last: Extent | None = None
        for part, start, count in self._within(offset, length):
            for found in part.source.extents(start - part.start, count):
                here = Extent(found.offset + part.start, found.length, found.zero)
                if last is not None and last.zero == here.zero:
                    last = Extent(last.offset, last.length + here.length, last.zero)
                    continue
                if last is not None:
                    yield last
                last = here
        if last is not None:
            yield last

    def close(self) -> None:
        """Release the files."""
        self._files.close()

    def _within(self, offset: int, length: int) -> Iterator[tuple[_Part, int, int]]:
        """Yield the parts that a range of the disk goes through: part, start, length."""
        if offset < 0 or length < 0 or offset + length > self.size:
            problem = f"{length} bytes at {offset} leave the disk of {self.size} bytes"
            raise ImageError(path=self.path, problem=problem)
        for part in self._parts:
            start = max(offset, part.start)
            stop = min(offset + length, part.start + part.length)
            if start < stop:
                yield part, start, stop - start


class _Zeros:
    """An extent of nothing."""

    def readinto(self, _offset: int, view: memoryview) -> None:
        view[:] = bytes(len(view))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length, zero=True)


class _Flat:
    """An extent that lies in its file as it is, from byte `base` on."""

    def __init__(self, fd: int, base: int) -> None:
        self._fd = fd
        self._base = base

    def readinto(self, offset: int, view: memoryview) -> None:
        pread_exact(self._fd, self._base + offset, view)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        position, end = offset, offset + length
        for start, stop in stored(self._fd, self._base + offset, length):
            if start - self._base > position:
                yield Extent(position, start - self._base - position, zero=True)
            yield Extent(start - self._base, stop - start)
            position = stop - self._base
        if position < end:
            yield Extent(position, end - position, zero=True)


class _Sparse:
    """An extent of grains, each found through two tables; in bytes.

    Attributes:
        size: of the extent.
        text: the description that lies in the same file, empty if none does.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        self._end = os.lseek(fd, 0, os.SEEK_END)
        header = self._header(0)
        if header[9] == _AT_END:
            header = self._header(self._end - _FOOTER)
        (_, version, flags, capacity, grain, text_at, text_size, per_table, _, directory, _, _,
         algorithm) = header  # fmt: skip
        self._grain = grain * SECTOR
        self._per_table = per_table
        self._zero_grains = bool(flags & _ZERO_GRAINS)
        self._compressed = bool(flags & _COMPRESSED)
        self.size = capacity * SECTOR
        if version not in (1, 2, 3):
            raise self._damaged(f"it is of version {version}")
        if not 4 * KiB <= self._grain <= 2 * MiB or grain & (grain - 1):
            raise self._damaged(f"grains of {self._grain} bytes are out of bounds")
        if not 0 < self.size <= _MAX_SIZE or not 0 < per_table <= 64 * KiB:
            raise self._damaged(f"an extent of {self.size} bytes is out of bounds")
        if self._compressed and algorithm != 1:
            raise self._damaged(f"it is compressed in way {algorithm}, which is not known")
        count = -(-self.size // (self._grain * per_table))
        if count * 4 > _MAX_DIRECTORY:
            raise self._damaged(f"a grain directory of {count} entries is out of bounds")
        self._directory = self._entries(directory * SECTOR, count)
        self._last = threading.local()
        self.text = b""
        if text_at and text_size:
            data = bytearray(min(text_size * SECTOR, _MAX_TEXT))
            self._read(text_at * SECTOR, memoryview(data))
            self.text = bytes(data)

    def readinto(self, offset: int, view: memoryview) -> None:
        for start, length, where in self._pieces(offset, len(view)):
            target = view[start - offset :][:length]
            inside = start & (self._grain - 1)
            if not where:
                target[:] = bytes(length)
            elif self._compressed:
                target[:] = self._inflated(start - inside, where)[inside : inside + length]
            else:
                self._read(where + inside, target)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        start, end, zero = offset, offset, True
        for piece, count, where in self._pieces(offset, length):
            if (not where) != zero:
                if end > start:
                    yield Extent(start, end - start, zero)
                start, zero = piece, not where
            end = piece + count
        if end > start:
            yield Extent(start, end - start, zero)

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (offset, length, place in the file) of what lies in one grain; place 0: zeros."""
        end, span = offset + length, self._grain * self._per_table
        while offset < end:
            index = offset // span
            table = self._directory[index]
            stop = min(end, (index + 1) * span)
            if table == 0 or (table == 1 and self._zero_grains):
                yield offset, stop - offset, 0
                offset = stop
                continue
            entries = self._entries(table * SECTOR, self._per_table)
            while offset < stop:
                entry = entries[offset % span // self._grain]
                step = min(stop, (offset // self._grain + 1) * self._grain) - offset
                yield offset, step, 0 if entry == 1 and self._zero_grains else entry * SECTOR
                offset += step

    def _inflated(self, start: int, where: int) -> bytes:
        """Return the grain for byte `start`; the last one of each thread is kept."""
        if getattr(self._last, "where", 0) == where:
            kept: bytes = self._last.grain
            return kept
        head = bytearray(_MARKER.size)
        self._read(where, memoryview(head))
        sector, length = _MARKER.unpack(head)
        if sector * SECTOR != start or length > 2 * self._grain:
            raise self._damaged(f"the grain at {where} is not that for byte {start}")
        data = bytearray(length)
        self._read(where + _MARKER.size, memoryview(data))
        try:
            grain = zlib.decompressobj().decompress(data, self._grain)
        except zlib.error as error:
            raise self._damaged(f"the grain for byte {start}: {error}") from error
        if len(grain) < min(self._grain, self.size - start):
            raise self._damaged(f"the grain for byte {start} is too short")
        self._last.where, self._last.grain = where, grain
        return grain

    def _header(self, offset: int) -> tuple[int, ...]:
        data = bytearray(_HEADER.size)
        self._read(offset, memoryview(data))
        header = _HEADER.unpack(data)
        if header[0] != _SPARSE:
            raise self._damaged(f"there is no header at {offset}")
        return header

    def _entries(self, offset: int, count: int) -> array[int]:
        entries = array("I", bytes(4 * count))
        self._read(offset, memoryview(entries).cast("B"))
        if sys.byteorder == "big":
            entries.byteswap()
        return entries

    def _read(self, offset: int, view: memoryview) -> None:
        if offset < 0 or offset + len(view) > self._end:
            raise self._damaged(f"{len(view)} bytes at {offset} leave the file")
        pread_exact(self._fd, offset, view)

    def _damaged(self, problem: str) -> ImageError:
        return ImageError(path=self._path, problem=problem)


def _check_embedded(sparse: _Sparse) -> None:
    """Refuse a file that does not hold all of its disk."""
    settings = _settings(sparse._path, sparse.text)
    kind = settings.get("createType", "")
    if kind not in _ONE_FILE:
        problem = f"it is a part of a VMDK ({kind or 'of no kind'}); give the file that lists them"
        raise ImageError(path=sparse._path, problem=problem)


def _settings(path: Path, text: bytes) -> dict[str, str]:
    """Return a description's settings.

    Raises:
        ImageError: it is of a snapshot.
    """
    found = {}
    for line in text.partition(b"\0")[0].decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found[key.strip()] = value.strip().strip('"')
    if "parentFileNameHint" in found or found.get("parentCID", "ffffffff").lower() != "ffffffff":
        problem = (
            "it is a snapshot, which needs its parent; consolidate the disk, or clone it, first"
        )
        raise ImageError(path=path, problem=problem)
    return found


def _parts(path: Path, text: bytes, files: ExitStack) -> Iterator[_Part]:
    """Yield the parts that a description lists, each opened."""
    if len(text) >= _MAX_TEXT:
        raise ImageError(path=path, problem=f"its description is longer than {_MAX_TEXT} bytes")
    _settings(path, text)
    start = 0
    lines = text.partition(b"\0")[0].decode("utf-8", "replace").splitlines()
    extents = [line.strip() for line in lines if line.strip().startswith(("RW", "RDONLY", "NOACC"))]
    if not 0 < len(extents) <= _MAX_EXTENTS:
        raise ImageError(path=path, problem=f"it lists {len(extents)} extents")
    for line in extents:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ImageError(path=path, problem=f"extent {line[:80]!r} is of no kind that is read")
        length = int(match[2]) * SECTOR
        yield _Part(start, length, _source(path, match, length, files))
        start += length


def _source(path: Path, match: re.Match[str], length: int, files: ExitStack) -> _Source:
    kind, name = match[3], match[4]
    if kind == "ZERO":
        return _Zeros()
    if kind not in ("FLAT", "VMFS", "SPARSE") or not name or name in (".", ".."):
        raise ImageError(path=path, problem=f"an extent of kind {kind} is not read")
    file = path.with_name(name)
    fd = _open(file, files)
    if kind == "SPARSE":
        sparse = _Sparse(fd, file)
        if sparse.size < length:
            raise ImageError(path=file, problem=f"it holds {sparse.size} bytes and not {length}")
        return sparse
    base = int(match[5] or 0) * SECTOR
    if base + length > os.lseek(fd, 0, os.SEEK_END):
        raise ImageError(path=file, problem=f"it is shorter than the {length} bytes it should hold")
    return _Flat(fd, base)


def _open(path: Path, files: ExitStack) -> int:
    """Open a regular file, which no link leads to, until `files` ends."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(path=path, problem=f"it can't be opened: {error.strerror}") from error
    files.callback(os.close, fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ImageError(path=path, problem="it is not a regular file")
    return fd
