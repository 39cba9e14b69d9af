# SPDX-License-Identifier: GPL-3.0-or-later
"""A lane: one thread with one connection that takes a block, reads, encodes and sends it.

Several lanes make the pipeline: while one waits for the disk another compresses and a third is in
the network, and there is no queue between them to bound or to drain. Reads, BLAKE3, zstd and TLS
all release the GIL. A lane remembers the blocks that it sent until the converter says that they
are durable; when its connection breaks they go back to the work and are read again. So an
interruption of any kind is one case, and no payload is ever kept. They go back only when a new
connection of the lane was let in: by then the converter has ended the old one, and nothing that was
still on its way there can come after what is read again.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Protocol

import native
from agent.capture.layout import Kind as PieceKind
from agent.stream.announce import announcement
from agent.stream.chart import Chart, Mark
from agent.stream.converter import Connection, ConnectionLostError, Connects
from agent.stream.limiter import Limiter
from agent.stream.policy import Policy
from agent.stream.work import BLOCK_SIZE, Block, Taken, Work
from p2v.model.errors import MigrationBusyError, ProtocolError, UnreachableError
from p2v.wire import pages
from p2v.wire.chunk import CHUNK_SIZE, DIGEST_SIZE, GROUP_SIZE, digest, zero_digest
from p2v.wire.codec import Buffer, Encoder
from p2v.wire.frame import HEADER_SIZE, Frame, Kind, WireCodec

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


class Disk(Protocol):
    """The part of a source that a lane needs (agent.capture.source.Source is one)."""

    def readinto(self, offset: int, buffer: memoryview | mmap.mmap) -> None:
        """Fill `buffer` with the bytes at `offset`."""


@dataclass
class Counters:
    """What all lanes did, in bytes of the source (`wire` in bytes sent). Shared, under `lock`."""

    handled: int = 0
    """Of the work's bytes, those that were dealt with and not given back."""
    read: int = 0
    """Read from the disks."""
    zero: int = 0
    """Found or known to be zeros."""
    same: int = 0
    """Known to the converter already, so not sent."""
    sent: int = 0
    """Sent as data."""
    wire: int = 0
    durable: int = 0
    """Of all the bytes handled, those that the converter keeps for sure."""
    reconnects: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def as_dict(self) -> dict[str, int]:
        """Return the figures by name."""
        with self.lock:
            return {
                field.name: getattr(self, field.name)
                for field in fields(self)
                if field.name != "lock"
            }

    def add(self, other: Counters) -> None:
        """Add what one lane did."""
        with self.lock:
            self.handled += other.handled
            self.read += other.read
            self.zero += other.zero
            self.same += other.same
            self.sent += other.sent
            self.wire += other.wire
            self.durable += other.durable


@dataclass
class Shared:
    """What the lanes of a transfer share."""

    migration: str
    converter: Connects
    disks: Sequence[Disk]
    work: Work
    policy: Policy
    limiter: Limiter
    counters: Counters
    chart: Chart | None
    moved: Callable[[Block], bool]
    """Whether a chunk of which pages were read may have changed outside of them meanwhile."""
    announce: bool
    """Whether the converter is told beforehand what is sent anew."""
    stop: threading.Event
    patience_s: float
    """How long a lane tries to get a connection again before the transfer fails."""


class Lane:
    """The loop of one lane. `run` is its thread's target."""

    def __init__(self, shared: Shared, name: str = "") -> None:
        self._shared = shared
        self._name = name
        self._buffer = mmap.mmap(-1, BLOCK_SIZE)  # page-aligned, as O_DIRECT wants it
        self._encoders: dict[tuple[WireCodec, int], Encoder] = {}
        self._sequence = 0
        self._unsure: deque[tuple[int, Block]] = deque()
        """Blocks that are not known to be durable, with the sequence of their last frame."""

    def run(self) -> None:
        """Send blocks until there are none left and all that this lane sent is durable.

        Raises:
            P2VError: the transfer can't go on: the source failed, the converter refused, or no
                connection could be had for `patience_s`.
        """
        shared = self._shared
        retry = _Retry(shared.patience_s)
        while not shared.stop.is_set():
            first = self._sequence = 0
            try:
                with contextlib.closing(self._connect()) as connection:
                    first = self._sequence = connection.durable()  # of a connection that was kept
                    self._give_back()
                    self._send_all(connection)
                    return
            except (ConnectionLostError, UnreachableError, MigrationBusyError) as error:
                pause = retry.pause(error, moved=self._sequence > first)
            except ProtocolError as error:
                if any(block.pages and block.taken for _, block in self._unsure):
                    raise  # the rest of the chunk is not what the converter has, and is gone
                pause = retry.pause(error, moved=False)
            with shared.counters.lock:
                shared.counters.reconnects += 1
            shared.stop.wait(pause)

    def _connect(self) -> Connection:
        return self._shared.converter.connect(self._shared.migration, self._name)

    def _send_all(self, connection: Connection) -> None:
        shared = self._shared
        announce = partial(self._announce, connection) if shared.announce else None
        while not shared.stop.is_set():
            shared.limiter.wait(shared.stop)
            taken = shared.work.take(announce)
            if taken is None:
                break
            block, known = taken
            self._send(connection, block, known)
            self._settle(connection.durable())
        if self._unsure and not shared.stop.is_set():
            self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        self._sequence += 1
        connection.flush(self._sequence)
        self._settle(self._sequence)

    def _announce(self, connection: Connection, blocks: Iterable[Block]) -> None:
        """Tell of blocks, and wait until that is heard: other lanes send them too."""
        frames = announcement(blocks, self._sequence + 1)
        self._sequence += len(frames)
        connection.send(frames)
        self._flush(connection)

    def _send(self, connection: Connection, block: Block, known: bytes | None) -> None:
        shared = self._shared
        tally = Counters(handled=block.length)
        start = time.monotonic()
        if block.piece.kind is PieceKind.ZERO:
            frames = self._zero(block)
            tally.zero += block.length
            self._mark(block, block.offset, block.length, Mark.ZERO)
        elif block.taken is not None:
            frames = self._encode_taken(block, block.taken, tally)
        else:
            frames = self._encode(block, known, tally)
        encoded = time.monotonic()
        tally.wire = sum(HEADER_SIZE + len(payload) for _, payload in frames)
        self._unsure.append((self._sequence, block))
        shared.counters.add(tally)
        if frames:
            shared.limiter.take(tally.wire, shared.stop)
            connection.send(frames)
        shared.policy.observe(encoded - start, time.monotonic() - encoded, tally.sent, tally.wire)

    def _give_back(self) -> None:
        """Return what is not known to be durable to the work: all of it, not just its pages."""
        blocks = [block if block.taken else replace(block, pages=()) for _, block in self._unsure]
        self._unsure.clear()
        self._shared.work.put_back(blocks)
        self._shared.counters.add(Counters(handled=-sum(block.length for block in blocks)))

    def _settle(self, durable: int) -> None:
        """Forget the blocks that are durable up to this sequence number."""
        done = 0
        while self._unsure and self._unsure[0][0] <= durable:
            done += self._unsure.popleft()[1].length
        if done:
            self._shared.counters.add(Counters(durable=done))

    def _zero(self, block: Block) -> list[tuple[Frame, Buffer]]:
        self._sequence += 1
        frame = Frame(Kind.ZERO, block.disk, block.offset, block.length, self._sequence)
        return [(frame, b"")]

    def _encode(
        self, block: Block, known: bytes | None, tally: Counters
    ) -> list[tuple[Frame, Buffer]]:
        """Read a block and return the frames of its chunks that the converter does not have."""
        view = memoryview(self._buffer)[: block.length]
        if block.piece.kind is PieceKind.LITERAL:
            view[:] = block.piece.data
        else:
            self._shared.disks[block.disk].readinto(block.offset, view)
            block.piece.apply(block.offset, view)
            tally.read += block.length
        encoder = self._encoder()
        frames: list[tuple[Frame, Buffer]] = []
        for start in range(0, block.length, CHUNK_SIZE):
            chunk = view[start : start + CHUNK_SIZE]
            self._encode_chunk(block, block.offset + start, chunk, known, encoder, frames, tally)
        return frames

    def _encode_chunk(
        self,
        block: Block,
        offset: int,
        chunk: memoryview,
        known: bytes | None,
        encoder: Encoder,
        frames: list[tuple[Frame, Buffer]],
        tally: Counters,
    ) -> None:
        length = len(chunk)
        zero = native.is_zero(chunk)
        checksum = zero_digest(length) if zero else digest(chunk)
        if known is not None:
            at = offset % GROUP_SIZE // CHUNK_SIZE * DIGEST_SIZE
            if known[at : at + DIGEST_SIZE] == checksum:
                tally.same += length
                self._mark(block, offset, length, Mark.SAME)
                return
        self._sequence += 1
        if zero:
            tally.zero += length
            self._mark(block, offset, length, Mark.ZERO)
            frames.append((Frame(Kind.ZERO, block.disk, offset, length, self._sequence), b""))
            return
        self._mark(block, offset, length, Mark.SENT)
        payload: Buffer
        if block.pages and not self._shared.moved(block):
            kind, (codec, payload) = Kind.PAGES, pages.pack(chunk, block.pages, encoder)
            tally.sent += pages.page_bytes(block.pages)
        else:
            kind, (codec, payload) = Kind.DATA, encoder.encode(chunk)
            tally.sent += length
        frame = Frame(
            kind, block.disk, offset, length, self._sequence, codec, len(payload), checksum
        )
        frames.append((frame, payload))

    def _encode_taken(
        self, block: Block, taken: Taken, tally: Counters
    ) -> list[tuple[Frame, Buffer]]:
        """Return the frame of a chunk that was taken before."""
        self._sequence += 1
        if taken.digest == zero_digest(block.length):
            tally.zero += block.length
            return [(Frame(Kind.ZERO, block.disk, block.offset, block.length, self._sequence), b"")]
        payload: Buffer
        if block.pages:
            kind = Kind.PAGES
            codec, payload = pages.pack_taken(taken.data, block.pages, self._encoder())
        else:
            kind, (codec, payload) = Kind.DATA, self._encoder().encode(taken.data)
        tally.sent += len(taken.data)
        frame = Frame(
            kind,
            block.disk,
            block.offset,
            block.length,
            self._sequence,
            codec,
            len(payload),
            taken.digest,
        )
        return [(frame, payload)]

    def _mark(self, block: Block, offset: int, length: int, mark: Mark) -> None:
        if self._shared.chart is not None:
            self._shared.chart.add(block.disk, offset, length, mark)

    def _encoder(self) -> Encoder:
        choice = self._shared.policy.choice
        if choice not in self._encoders:
            self._encoders[choice] = Encoder(*choice)
        return self._encoders[choice]


class _Retry:
    """How long to wait before the next connection, and when to give up."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._last_success = time.monotonic()
        self._pause_s = FIRST_PAUSE_S

    def pause(self, error: Exception, *, moved: bool) -> float:
        """Return the seconds to wait; raise `error` when there is no hope left."""
        now = time.monotonic()
        if moved:
            self._last_success, self._pause_s = now, FIRST_PAUSE_S
        elif now - self._last_success > self._patience_s:
            raise error
        log.info("connection lost (%s); trying again", error)
        seconds = self._pause_s * random.uniform(0.7, 1.3)  # noqa: S311 - jitter, no secret
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        return seconds
