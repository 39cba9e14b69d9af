# SPDX-License-Identifier: GPL-3.0-or-later
"""The work of a pass: blocks to send, handed to the lanes one at a time, and back if one fails."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from agent.capture.layout import Kind, Piece
from p2v.model.units import MiB
from p2v.wire.chunk import GROUP_SIZE
from p2v.wire.codec import Buffer
from p2v.wire.pages import Runs

BLOCK_SIZE = 1 * MiB
"""Bytes a block that is read at once: four chunks. Reads of 1 MiB were the fastest in nbdcopy's
measurements (256 KiB to 1 MiB within 7 %), and a block a lane bounds the agent's memory."""
BATCH = 2048
"""Blocks that are announced at once: half a GiB of single chunks."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A chunk as it was at one instant, kept in memory.

    `digest` is of the whole chunk; `data` its pages in order, or all of it.
    """

    digest: bytes
    data: Buffer


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a disk that one lane handles at once; at most `BLOCK_SIZE` unless it is zeros.

    With `pages` it is one chunk, which the converter has but for these pages. With `taken` it is
    one chunk that is not read from the disk.
    """

    disk: int
    piece: Piece
    pages: Runs = ()
    taken: Taken | None = None

    @property
    def offset(self) -> int:
        """The first byte, on the disk."""
        return self.piece.offset

    @property
    def length(self) -> int:
        """Bytes of disk."""
        return self.piece.length


def blocks(disk: int, pieces: Iterable[Piece]) -> Iterator[Block]:
    """Yield the pieces of a disk, cut to blocks."""
    for piece in pieces:
        if piece.kind is not Kind.READ or piece.length <= BLOCK_SIZE:
            yield Block(disk, piece)
            continue
        start = piece.offset
        while start < piece.end:
            end = min(piece.end, (start // BLOCK_SIZE + 1) * BLOCK_SIZE)
            yield Block(disk, replace(piece, offset=start, length=end - start))
            start = end


Known = Callable[[int, int], bytes | None]
"""Digests that the converter has for (disk, group): 32 bytes a chunk, or None for none."""
Announce = Callable[[Iterable[Block]], None]
"""Tells the converter of blocks that are about to be sent anew."""


class Work:
    """Iterates over blocks for several lanes; thread-safe.

    Nothing is held but what came back, and what was announced.
    """

    def __init__(self, queue: Iterable[Block], known: Known | None = None) -> None:
        self._blocks: Iterator[Block] = iter(queue)
        self._back: deque[Block] = deque()
        self._known = known
        self._groups: dict[tuple[int, int], bytes | None] = {}
        self._lock = threading.Lock()

    def take(self, announce: Announce | None = None) -> tuple[Block, bytes | None] | None:
        """Return the next block and the digests of its group, or None when there is none left.

        With `announce` that is called with a batch of blocks before the first of them is returned.

        Raises:
            P2VError, OSError: the converter could not be asked for digests, or told; the block is
                kept. What could not be announced is returned later as it is.
        """
        with self._lock:
            if announce is not None and not self._back:
                self._back.extend(islice(self._blocks, BATCH))
                if self._back:
                    announce(self._back)
            block = self._back.popleft() if self._back else next(self._blocks, None)
            if block is None:
                return None
            if self._known is None or block.piece.kind is Kind.ZERO:
                return block, None
            try:
                return block, self._digests(block.disk, block.offset // GROUP_SIZE, self._known)
            except BaseException:
                self._back.appendleft(block)
                raise

    def put_back(self, blocks: Iterable[Block]) -> None:
        """Return blocks that were sent but are not known to be durable."""
        with self._lock:
            self._back.extend(blocks)

    def _digests(self, disk: int, group: int, known: Known) -> bytes | None:
        key = (disk, group)
        if key not in self._groups:
            digests = known(disk, group)
            if len(self._groups) >= 4:  # lanes are at most a group apart, but for blocks put back
                self._groups.clear()
            self._groups[key] = digests
        return self._groups[key]
