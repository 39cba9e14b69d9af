# SPDX-License-Identifier: GPL-3.0-or-later
"""What was written to the disks of a capture and is not sent yet, disk by disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.capture.changes import Change, Changes
from agent.capture.dirty import DirtySet
from agent.capture.layout import Layout
from agent.capture.leaves import kernel_name
from agent.capture.tracker import ChangeTracker
from agent.stream.work import Block, blocks
from p2v.wire.pages import PAGE_SIZE


class Writes:
    """Takes what the tracker marked, and remembers what was taken in vain."""

    def __init__(self, tracker: ChangeTracker, disks: Sequence[Path]) -> None:
        self._tracker = tracker
        self._names = [kernel_name(disk) for disk in disks]
        self._changes: list[Changes] = []
        self._owed: list[DirtySet | None] = []
        self.forget()

    def forget(self) -> None:
        """Begin anew: all of the disks is read after this."""
        for name in self._names:
            self._tracker.restart(name)
        self._owed = [None for _ in self._names]

    def know(self, layouts: Sequence[Layout]) -> None:
        """Take these to be what the first pass sends."""
        self._changes = [Changes(layout) for layout in layouts]

    @property
    def bytes(self) -> int:
        """How many bytes wait; each place counts once."""
        owed = sum(written.bytes for written in self._owed if written is not None)
        return owed + sum(self._tracker.dirty_bytes(name) for name in self._names)

    def parts(self, disk: int, length: int) -> list[bool]:
        """Return for each `length` bytes of a disk whether some of it waits."""
        found = self._tracker.parts(self._names[disk], length)
        if (owed := self._owed[disk]) is None:
            return found
        return [any(both) for both in zip(found, owed.parts(length), strict=True)]

    @property
    def doubts(self) -> list[str]:
        """Why disks have to be compared as a whole; empty while the tracker can be trusted."""
        return [doubt for name in self._names if (doubt := self._tracker.doubt(name))]

    def take(self) -> tuple[int, Iterator[Block]]:
        """Take all that waits: how many bytes, and the blocks to send."""
        taken = [self._owing(disk) for disk in range(len(self._names))]
        return sum(written.bytes for written, _ in taken), self._blocks(taken)

    def moved(self, block: Block) -> bool:
        """Whether a chunk was written to outside of its block's pages since those were taken."""
        marked = self._tracker.marked(self._names[block.disk], block.offset, block.length)
        first = block.offset // PAGE_SIZE
        inside = {
            first + page for start, count in block.pages for page in range(start, start + count)
        }
        return any(offset // PAGE_SIZE not in inside for offset in marked)

    def take_frozen(self) -> Iterator[tuple[int, DirtySet, Iterator[Change]]]:
        """Yield by disk what was written since, and what of it is to be sent."""
        for disk, name in enumerate(self._names):
            written = self._tracker.swap(name)
            yield disk, written, self._changes[disk].of(written)

    def give_back(self, disk: int, written: DirtySet) -> None:
        """Let this wait for the next pass: it was taken and not sent."""
        if (owed := self._owed[disk]) is None:
            self._owed[disk] = written
        else:
            owed.merge(written)

    def _owing(self, disk: int) -> tuple[DirtySet, bool]:
        written, owed = self._tracker.swap(self._names[disk]), self._owed[disk]
        self._owed[disk] = None
        if owed is not None:
            written.merge(owed)
        return written, owed is not None

    def _blocks(self, taken: Sequence[tuple[DirtySet, bool]]) -> Iterator[Block]:
        for disk, (written, whole) in enumerate(taken):
            for change in self._changes[disk].of(written, whole=whole):
                if change.pages:
                    yield Block(disk, change.piece, change.pages)
                else:
                    yield from blocks(disk, [change.piece])
