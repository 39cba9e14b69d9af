# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk holds at one instant of what changed last: read into locked memory, to be sent later.

Of a chunk only the pages that may have changed are kept, with the digest of all of it: the other
side puts them in and compares.
"""

from __future__ import annotations

import mmap
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from agent.capture.changes import Change
from agent.capture.layout import Kind, Piece
from agent.stream.lane import Disk
from agent.stream.work import Block, Taken
from native import pack_pages
from p2v.wire.chunk import CHUNK_SIZE, digest
from p2v.wire.pages import PAGE_SIZE, Runs, page_bytes

_PROBES = 16
_ZEROS = memoryview(bytes(1 << 20))
READERS = 8
"""Threads that read: disks with many heads, or none, answer several at once faster."""


class MemoryFullError(Exception):
    """More changed than fits into the memory that was set aside."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    disk: int
    piece: Piece
    pages: Runs


class Instant:
    """Room for what is read while all is frozen; made before, and used again and again.

    Attributes:
        blocks: what was taken, in the order in which it was asked for.
        chunks: how many chunks were read.
    """

    def __init__(self, disks: Sequence[Disk], room: int) -> None:
        self.blocks: list[Block] = []
        self.chunks = 0
        self._disks = disks
        self._memory = mmap.mmap(-1, room)
        self._view = memoryview(self._memory)
        self._at = 0
        self._lock = threading.Lock()
        self._places: dict[tuple[int, int], int] = {}
        self._buffers: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(READERS):
            self._buffers.put(mmap.mmap(-1, CHUNK_SIZE))
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="instant")

    def prepare(self, room: int) -> None:
        """Touch `room` bytes, so that no page has to be found for them while all is frozen.

        Also forgets what was taken before, and wakes every thread.
        """
        self.blocks, self.chunks, self._at = [], 0, 0
        self._places.clear()
        room = min(room, len(self._view))
        for at in range(0, room, len(_ZEROS)):
            self._view[at : min(at + len(_ZEROS), room)] = _ZEROS[: room - at]
        gate = threading.Barrier(READERS)
        list(self._pool.map(lambda _: gate.wait(), range(READERS)))

    def read_rate(self, sizes: Sequence[int]) -> float:
        """Return the bytes a second at which chunks at random places of the disks are read."""
        dice = random.Random()  # noqa: S311 - places, no secret
        places = [
            (disk, dice.randrange(size // CHUNK_SIZE) * CHUNK_SIZE)
            for _ in range(_PROBES)
            for disk, size in enumerate(sizes)
            if size >= CHUNK_SIZE
        ]
        begun = time.monotonic()
        list(self._pool.map(lambda place: self._probe(*place), places))
        return max(1, len(places)) * CHUNK_SIZE / max(time.monotonic() - begun, 0.001)

    def take(self, disk: int, changes: Iterable[Change]) -> int:
        """Read what changed on a disk and keep it; return how many chunks that were.

        What was taken already is taken again, as a whole, in place of what it was.

        Raises:
            MemoryFullError: it does not fit.
            P2VError: the disk cannot be read.
        """
        wanted = self._wanted(disk, changes)
        for block in self._pool.map(self._read, wanted):
            place = self._places.setdefault((disk, block.offset), len(self.blocks))
            self.blocks[place : place + 1] = [block]
        self.chunks += len(wanted)
        return len(wanted)

    def close(self) -> None:
        """End the threads. What was taken stays as long as it is used."""
        self._pool.shutdown()

    def _probe(self, disk: int, offset: int) -> None:
        buffer = self._buffers.get()
        try:
            self._disks[disk].readinto(offset, buffer)
        finally:
            self._buffers.put(buffer)

    def _wanted(self, disk: int, changes: Iterable[Change]) -> list[_Chunk]:
        wanted: list[_Chunk] = []
        room = len(self._view) - self._at
        for chunk in _chunks(disk, changes):
            again = (disk, chunk.piece.offset) in self._places
            wanted.append(replace(chunk, pages=()) if again else chunk)
            room -= page_bytes(wanted[-1].pages) or chunk.piece.length
            if room < 0:
                raise MemoryFullError
        return wanted

    def _read(self, chunk: _Chunk) -> Block:
        piece = chunk.piece
        buffer = self._buffers.get()
        try:
            with memoryview(buffer) as whole, whole[: piece.length] as view:
                self._disks[chunk.disk].readinto(piece.offset, view)
                piece.apply(piece.offset, view)
                checksum = digest(view)
                kept = self._keep(pack_pages(view, chunk.pages, PAGE_SIZE) if chunk.pages else view)
        finally:
            self._buffers.put(buffer)
        return Block(chunk.disk, piece, chunk.pages, Taken(checksum, kept))

    def _keep(self, data: bytes | memoryview) -> memoryview:
        length = len(data)
        with self._lock:
            start = self._at
            if start + length > len(self._view):
                raise MemoryFullError
            self._at = start + length
        kept = self._view[start : start + length]
        kept[:] = data
        return kept


def _chunks(disk: int, changes: Iterable[Change]) -> Iterator[_Chunk]:
    for change in changes:
        piece = change.piece
        for offset in range(piece.offset, piece.end, CHUNK_SIZE):
            length = min(CHUNK_SIZE, piece.end - offset)
            one = Piece(offset, length, Kind.READ, blank=piece.blank, overlay=piece.overlay)
            yield _Chunk(disk, one, change.pages)
