# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of a plan, open, with what to do with their chunks; and how they are captured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from agent.capture.holes import without_holes
from agent.capture.layout import Layout, prepare
from agent.capture.source import Source
from agent.stream.chart import Chart
from agent.stream.lane import Counters
from agent.stream.work import Block, blocks
from p2v.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected of a live capture, from what was measured.

    `dirty` bytes wait to be sent, `churn` bytes a second are written, and a freeze now would take
    `freeze_s` seconds; the first good moment for it is in `finish_s`, None where nobody can say.
    With `outrun` more is written than can be sent. `text` says it in words.
    """

    text: str
    dirty: int
    churn: float
    freeze_s: float
    finish_s: float | None = None
    outrun: bool = False


class Sender(Protocol):
    """What a capture sends with (agent.migration has it)."""

    def send(
        self,
        phase: str,
        queue: Iterable[Block],
        total: int,
        *,
        compare: bool = False,
        announce: bool = False,
        moved: Callable[[Block], bool] = lambda _: False,
        watch: Callable[[int], None] = lambda _: None,
    ) -> Counters:
        """Send all blocks and return once they are durable.

        Args:
            phase: what the pass is called.
            queue: its blocks; none is of a chunk that another one has.
            total: their bytes, about.
            compare: send only chunks that differ from what the converter has.
            announce: tell the converter beforehand what is sent anew.
            moved: whether a chunk may have changed outside of its block's pages since they were
                taken; asked after it was read, it is then sent whole.
            watch: told every few seconds how many bytes of the work are done.

        Raises:
            P2VError: it can't go on.
        """

    def outlook(self, outlook: Outlook) -> None:
        """Show from now on what is to be expected."""

    def wait(self, phase: str, seconds: float) -> bool:
        """Wait, and keep the migration; return whether the cut-over was asked for."""


class Captured:
    """Disks that nobody writes to: one pass captures them."""

    def __init__(self, sources: Sequence[Source], layouts: Sequence[Layout]) -> None:
        self.sources = sources
        self.layouts = list(layouts)
        self.sizes = [layout.size for layout in layouts]
        self.total = sum(self.sizes)
        self.chart = Chart(self.sizes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What came out differently from the plan, in words."""
        return tuple(note for layout in self.layouts for note in layout.notes)

    def capture(self, sender: Sender, *, compare: bool) -> Counters:
        """Send the disks as they are at one instant; return what that took.

        Raises:
            P2VError: it can't be done; what was sent is kept.
        """
        return sender.send("full", self.blocks(), self.total, compare=compare)

    def written(self) -> int | None:
        """Return how many bytes were written since they were read, and chart where.

        None where nobody writes, or nobody can tell.
        """
        return None

    def blocks(self) -> Iterator[Block]:
        """Yield all of the disks."""
        return itertools.chain.from_iterable(
            blocks(index, without_holes(layout.pieces(), source))
            for index, (layout, source) in enumerate(zip(self.layouts, self.sources, strict=True))
        )

    def report(self) -> dict[str, Any]:
        """Return what the migration's report says beyond its figures."""
        return {}


@contextmanager
def open_offline(plan: Plan) -> Iterator[Captured]:
    """Open the disks of a plan that nobody writes to.

    Raises:
        DiskInUseError: somebody does.
        P2VError: one cannot be read, or is not what the plan says.
    """
    with ExitStack() as stack:
        sources = open_sources(plan, stack, live=False)
        layouts = [
            prepare(disk, source, plan.all_blocks)
            for disk, source in zip(plan.disks, sources, strict=True)
        ]
        yield Captured(sources, layouts)


def open_sources(plan: Plan, stack: ExitStack, *, live: bool) -> list[Source]:
    """Open the plan's disks until `stack` is closed."""
    return [stack.enter_context(Source(disk.path, live=live)) for disk in plan.disks]


Opened = AbstractContextManager[Captured]
"""Disks that are open until the block's end."""
