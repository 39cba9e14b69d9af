# SPDX-License-Identifier: GPL-3.0-or-later
"""Digest maps: a BLAKE3 digest a chunk of what an image durably holds, kept beside the image.

The rule that makes resume, re-sync and verification one mechanism: *a digest in the map describes
bytes that are durable in the image*. So a digest is recorded only after the image was flushed, and
forgotten, durably, before its chunk is written again. A chunk that is unknown is simply sent again.

The file (little endian; docs/wire.md):

    0     8  magic "P2VDIGST"
    8     4  version, 1
    12    4  chunk size
    16    8  disk size
    24    16 random id of this map
    4096  a byte a group of 4096 chunks: 0 all unknown, 1 all zeros, 2 see the entries
    ...   the entries, 32 bytes a chunk, from the next multiple of 4096 on

Groups that are wholly unknown or wholly zero have no entries, and the file is sparse there: the map
of an empty 8 TiB disk is 12 KiB. Nothing is held in memory but the groups' bytes (one a GiB).
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Self

import native
from p2v.model.errors import ImageError
from p2v.wire.chunk import (
    CHUNK_SIZE,
    DIGEST_SIZE,
    GROUP_CHUNKS,
    UNKNOWN,
    chunk_count,
    chunk_length,
    group_count,
    zero_digest,
)

MAGIC = b"P2VDIGST"
VERSION = 1
_HEADER = struct.Struct("<8sIIQ16s")
_PAGE = 4096


class GroupState(IntEnum):
    """What is known of a group as a whole; the first byte of a group on the wire."""

    UNKNOWN = 0
    ZERO = 1
    ENTRIES = 2


class DigestMap:
    """A digest map in its file. Thread-safe; writes are durable after `sync`."""

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self.size = size
        self.chunks = chunk_count(size)
        self._fd = fd
        self._lock = threading.Lock()
        self._lost = False
        count = group_count(size)
        self._entries_at = _PAGE + -(-count // _PAGE) * _PAGE
        self._states = bytearray(os.pread(fd, count, _PAGE))
        if len(self._states) != count or any(state > GroupState.ENTRIES for state in self._states):
            raise ImageError(path=path, problem="the digest map's table of groups is damaged")

    @classmethod
    def create(cls, path: Path, size: int) -> Self:
        """Make the map of a disk of `size` bytes, of which nothing is known; durable."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            header = _HEADER.pack(MAGIC, VERSION, CHUNK_SIZE, size, os.urandom(16))
            os.pwrite(fd, header, 0)
            entries_at = _PAGE + -(-group_count(size) // _PAGE) * _PAGE
            os.ftruncate(fd, entries_at + chunk_count(size) * DIGEST_SIZE)
            os.fsync(fd)
            return cls(path, fd, size)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing map.

        Raises:
            ImageError: it is no digest map, or of another version or grid.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            head = os.pread(fd, _HEADER.size, 0)
            if len(head) != _HEADER.size:
                raise ImageError(path=path, problem="too short for a digest map")
            magic, version, chunk_size, size, _ = _HEADER.unpack(head)
            if magic != MAGIC or version != VERSION or chunk_size != CHUNK_SIZE:
                raise ImageError(path=path, problem=f"no digest map of version {VERSION}")
            return cls(path, fd, size)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def sync(self) -> None:
        """Make durable what was recorded or forgotten.

        Raises:
            ImageError: an earlier call failed. The kernel may have dropped what it could not
                write, and the next fdatasync(2) would not tell.
        """
        if self._lost:
            raise ImageError(path=self.path, problem="it could not be made durable; resume it")
        try:
            os.fdatasync(self._fd)
        except BaseException:
            self._lost = True
            raise

    def get(self, index: int) -> bytes:
        """Return the digest of chunk `index`, `UNKNOWN` if it has none."""
        state = self._states[index // GROUP_CHUNKS]
        if state == GroupState.UNKNOWN:
            return UNKNOWN
        if state == GroupState.ZERO:
            return zero_digest(chunk_length(index, self.size))
        return os.pread(self._fd, DIGEST_SIZE, self._entries_at + index * DIGEST_SIZE)

    def group(self, number: int) -> bytes:
        """Return a group as it crosses the wire: its state, then its entries where it has any."""
        state = GroupState(self._states[number])
        if state is not GroupState.ENTRIES:
            return bytes([state])
        first, last = self._bounds(number)
        entries = os.pread(
            self._fd, (last - first) * DIGEST_SIZE, self._entries_at + first * DIGEST_SIZE
        )
        return bytes([state]) + entries

    def record(self, digests: Iterable[tuple[int, bytes]]) -> None:
        """Set the digests of single chunks, given as (index, digest) in ascending order."""
        with self._lock:
            start, run = 0, bytearray()
            for index, digest in digests:
                if run and index != start + len(run) // DIGEST_SIZE:
                    self._put(self._entries_at + start * DIGEST_SIZE, run)
                    run.clear()
                if not run:
                    start = index
                self._itemise([index // GROUP_CHUNKS])
                run += digest
            if run:
                self._put(self._entries_at + start * DIGEST_SIZE, run)

    def itemise(self, numbers: Iterable[int]) -> None:
        """Prepare groups for digests of single chunks; one sync for all, instead of one each."""
        with self._lock:
            self._itemise(numbers)

    def record_zero(self, first: int, count: int) -> None:
        """Set `count` chunks from `first` on to the digest of zeros; whole groups cost a byte."""
        self._fill(first, count, GroupState.ZERO)

    def forget(self, first: int, count: int = 1) -> bool:
        """Make chunks unknown; return whether any was known, so that `sync` must come next."""
        with self._lock:
            known = any(
                self._known(number, first, first + count)
                for number in range(first // GROUP_CHUNKS, -(-(first + count) // GROUP_CHUNKS))
            )
        if known:
            self._fill(first, count, GroupState.UNKNOWN)
        return known

    def missing(self) -> int:
        """Return how many chunks are unknown."""
        return sum(self._missing_in(number) for number in range(len(self._states)))

    def known(self) -> int:
        """Return how many chunks are known."""
        return self.chunks - self.missing()

    def _bounds(self, number: int) -> tuple[int, int]:
        first = number * GROUP_CHUNKS
        return first, min(first + GROUP_CHUNKS, self.chunks)

    def _missing_in(self, number: int) -> int:
        first, last = self._bounds(number)
        body = self.group(number)
        if body[0] != GroupState.ENTRIES:
            return last - first if body[0] == GroupState.UNKNOWN else 0
        if UNKNOWN not in body:  # the usual case, at the speed of memmem
            return 0
        return sum(body.startswith(UNKNOWN, at) for at in range(1, len(body), DIGEST_SIZE))

    def _known(self, number: int, start: int, stop: int) -> bool:
        state = self._states[number]
        if state != GroupState.ENTRIES:
            return state == GroupState.ZERO
        first, last = self._bounds(number)
        start, stop = max(first, start), min(last, stop)
        entries = os.pread(
            self._fd, (stop - start) * DIGEST_SIZE, self._entries_at + start * DIGEST_SIZE
        )
        return not native.is_zero(entries)

    def _fill(self, first: int, count: int, state: GroupState) -> None:
        """Set chunks to unknown or zero: whole groups by their byte, parts by their entries."""
        stop = first + count
        with self._lock:
            while first < stop:
                number = first // GROUP_CHUNKS
                group_first, group_stop = self._bounds(number)
                part_stop = min(stop, group_stop)
                if first == group_first and part_stop == group_stop:
                    self._set_state(number, state)
                elif self._states[number] != state:
                    self._itemise([number])
                    self._write_uniform(first, part_stop, state)
                first = part_stop

    def _set_state(self, number: int, state: GroupState) -> None:
        self._states[number] = state
        self._put(_PAGE + number, bytes([state]))

    def _itemise(self, numbers: Iterable[int]) -> None:
        """Give uniform groups their entries.

        They are durable before the groups' bytes say that they count: after a crash in between,
        stale entries of an earlier life of a group must not come back as digests. Where the file
        has a hole there was no such life.
        """
        uniform = [number for number in numbers if self._states[number] != GroupState.ENTRIES]
        written = False
        for number in uniform:
            first, last = self._bounds(number)
            state = GroupState(self._states[number])
            if state is GroupState.ZERO or not self._is_hole(first, last):
                self._write_uniform(first, last, state)
                written = True
        if written:
            self.sync()
        for number in uniform:
            self._set_state(number, GroupState.ENTRIES)

    def _is_hole(self, first: int, stop: int) -> bool:
        """Whether these entries were never written, as far as the file system can tell."""
        start, end = (self._entries_at + index * DIGEST_SIZE for index in (first, stop))
        try:
            return os.lseek(self._fd, start, os.SEEK_DATA) >= end
        except OSError as error:
            return error.errno == errno.ENXIO

    def _write_uniform(self, first: int, stop: int, state: GroupState) -> None:
        if state is GroupState.UNKNOWN:
            body = UNKNOWN * (stop - first)
        else:
            body = zero_digest(CHUNK_SIZE) * (stop - first - 1)
            body += zero_digest(chunk_length(stop - 1, self.size))
        self._put(self._entries_at + first * DIGEST_SIZE, body)

    def _put(self, offset: int, data: bytes | bytearray) -> None:
        """Write all of `data`: on a full file system the kernel writes a part, and says so."""
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)


def expand_group(body: bytes, number: int, size: int) -> bytes | None:
    """Return the digests of a group from its bytes on the wire, None where all are unknown.

    Raises:
        ImageError: the bytes are no group of a disk of `size` bytes.
    """
    first = number * GROUP_CHUNKS
    count = min(GROUP_CHUNKS, chunk_count(size) - first)
    if len(body) == 1 and body[0] == GroupState.UNKNOWN:
        return None
    if len(body) == 1 and body[0] == GroupState.ZERO:
        last = zero_digest(chunk_length(first + count - 1, size))
        return zero_digest(CHUNK_SIZE) * (count - 1) + last
    if len(body) == 1 + count * DIGEST_SIZE and body[0] == GroupState.ENTRIES:
        return body[1:]
    raise ImageError(path=f"group {number}", problem=f"{len(body)} bytes are no group of digests")
