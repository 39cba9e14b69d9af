# SPDX-License-Identifier: GPL-3.0-or-later
"""The VHDX log, replayed in memory ([MS-VHDX] 2.3): the check judges the file as it will be."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from p2v.images.check.crc import crc32c
from p2v.images.check.report import Findings
from p2v.images.check.source import Source
from p2v.model.units import KiB, MiB

_SECTOR = 4 * KiB
_ENTRY = struct.Struct("<4sIIIQII16sQQ")
_DESCRIPTOR = 32
_FIRST_LOGGABLE = 192 * KiB
_BUDGET = 16 * MiB
"""Bytes of the log that are looked at. Logs are 1 MiB; a hostile one could cost hours."""


@dataclass(frozen=True, slots=True)
class Patch:
    """What a log descriptor writes: `data`, or `length` zeros where that is empty."""

    offset: int
    length: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """A log entry whose checksum and parts hold; `start` and `tail` are offsets in the log."""

    start: int
    length: int
    tail: int
    sequence: int
    flushed: int
    last: int
    patches: tuple[Patch, ...]


class View:
    """The file with the log's patches laid over it."""

    def __init__(self, source: Source, patches: tuple[Patch, ...] = (), size: int = 0) -> None:
        self._source = source
        self._patches = patches
        self.size = max(source.size, size)

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset` on; fewer only at the end of the file."""
        raw = self._source.read(offset, length)
        if not self._patches:
            return raw
        end = max(min(offset + length, self.size), offset)
        result = bytearray(raw.ljust(end - offset, b"\0"))
        for patch in self._patches:
            low, high = max(offset, patch.offset), min(end, patch.offset + patch.length)
            if low < high:
                piece = patch.data[low - patch.offset : high - patch.offset]
                result[low - offset : high - offset] = piece or bytes(high - low)
        return bytes(result)


def replay(source: Source, findings: Findings, offset: int, length: int, guid: UUID) -> View:
    """Return the file as it is after the log at `offset` has been replayed."""
    log = _Log(source, offset, length, guid)
    entries = log.active()
    if log.exhausted:
        findings.error(
            "log-too-large", f"more than {_BUDGET} bytes of log are in use; not replayed", offset
        )
        return View(source)
    if not entries:
        findings.error("log-no-entries", "the header says the log is in use; it holds no entry")
        return View(source)
    findings.warn(
        "log-dirty",
        f"{len(entries)} log entries wait to be replayed; Hyper-V does so when it attaches the "
        "disk, others refuse it. The check goes on as if that had happened",
        offset + entries[0].start,
    )
    newest = entries[-1]
    if newest.flushed > source.size:
        findings.error(
            "log-file-cut", f"the log says that {newest.flushed} bytes were safe on disk", offset
        )
    patches = tuple(patch for entry in entries for patch in entry.patches)
    return View(source, patches, newest.last)


class _Log:
    def __init__(self, source: Source, offset: int, length: int, guid: UUID) -> None:
        self._source = source
        self._offset = offset
        self._length = length
        self._guid = guid.bytes_le
        self._budget = _BUDGET

    @property
    def exhausted(self) -> bool:
        """Whether the log holds more than is looked at."""
        return self._budget <= 0

    def active(self) -> list[Entry]:
        """Return the sequence with the newest entry, from that entry's tail to itself."""
        entries = {entry.start: entry for entry in self._entries()}
        for newest in sorted(entries.values(), key=lambda entry: entry.sequence, reverse=True):
            chain = _chain(entries, newest, self._length)
            if chain:
                return chain
        return []

    def _entries(self) -> Iterator[Entry]:
        start = 0
        while start < self._length and self._budget > 0:
            entry = self._entry(start)
            if entry is not None:
                yield entry
            start += entry.length if entry is not None else _SECTOR

    def _read(self, start: int, length: int) -> bytes:
        """Read from the ring."""
        self._budget -= length
        first = min(length, self._length - start)
        head = self._source.read(self._offset + start, first)
        return head + self._source.read(self._offset, length - first)

    def _entry(self, start: int) -> Entry | None:
        raw = self._read(start, _SECTOR)
        signature, stored, length, tail, sequence, count, _, guid, flushed, last = (
            _ENTRY.unpack_from(raw)
        )
        if signature != b"loge" or guid != self._guid or not sequence:
            return None
        if length % _SECTOR or not 0 < length <= min(self._length, self._budget):
            return None
        if tail % _SECTOR or tail >= self._length or count > length // _DESCRIPTOR:
            return None
        raw = self._read(start, length)
        if crc32c((raw[:4], bytes(4), raw[8:])) != stored:
            return None
        patches = self._patches(raw, count, sequence)
        if patches is None:
            return None
        return Entry(start, length, tail, sequence, flushed, last, patches)

    def _patches(self, raw: bytes, count: int, sequence: int) -> tuple[Patch, ...] | None:
        """Return what the descriptors write, None where one is malformed."""
        patches = []
        data = -(-(_ENTRY.size + count * _DESCRIPTOR) // _SECTOR) * _SECTOR
        for index in range(count):
            at = _ENTRY.size + index * _DESCRIPTOR
            if at + _DESCRIPTOR > len(raw):
                return None
            kind, trailing, leading, offset, number = struct.unpack_from("<4s4s8sQQ", raw, at)
            if number != sequence:
                return None
            if kind == b"zero":
                patch = Patch(offset, int.from_bytes(leading, "little"))
            elif kind == b"desc":
                sector = raw[data : data + _SECTOR]
                data += _SECTOR
                if not _is_data_sector(sector, sequence):
                    return None
                patch = Patch(offset, _SECTOR, leading + sector[8:-4] + trailing)
            else:
                return None
            if not self._may_write(patch):
                return None
            patches.append(patch)
        return tuple(patches) if data == len(raw) else None

    def _may_write(self, patch: Patch) -> bool:
        if patch.offset % _SECTOR or patch.length % _SECTOR or patch.offset < _FIRST_LOGGABLE:
            return False
        end = patch.offset + patch.length
        return end <= self._offset or patch.offset >= self._offset + self._length


def _is_data_sector(sector: bytes, sequence: int) -> bool:
    if len(sector) < _SECTOR or sector[:4] != b"data":
        return False
    number = sector[4:8] + sector[-4:]
    return number == (sequence >> 32).to_bytes(4, "little") + (sequence & 0xFFFFFFFF).to_bytes(
        4, "little"
    )


def _chain(entries: dict[int, Entry], last: Entry, ring: int) -> list[Entry]:
    """Return the entries from the tail of `last` to itself, empty where they do not connect."""
    chain = []
    entry = entries.get(last.tail)
    used = 0
    while entry is not None:
        chain.append(entry)
        used += entry.length
        if entry is last:
            return chain
        following = entries.get((entry.start + entry.length) % ring)
        if used > ring or following is None or following.sequence != entry.sequence + 1:
            break
        entry = following
    return []
