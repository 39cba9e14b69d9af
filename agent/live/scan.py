# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks whose writes nobody can follow: comparisons bring an image near to them, no more.

What is written during a comparison is not in it, and nothing tells where that was. So such an image
is of no instant, and this never ends it: a run that follows the disks, or one when nobody writes to
them (from the p2v ISO, say), compares once more, sends the little that differs, and does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agent.capture.layout import Layout, prepare
from agent.capture.source import Source
from agent.captured import Captured, Sender, open_sources
from agent.live.cutover import When
from agent.live.freeze import settle
from agent.live.settings import LiveSettings
from agent.stream.lane import Counters
from p2v.model.errors import NotLiveError
from p2v.model.plan import Plan

MAX_COMPARISONS = 4
WORTH = 0.5
"""A comparison that took more than this share of the pass before it is not worth another."""
_NO_END = (
    "they cannot end a capture, only prepare it: with '--cutover later' the image is brought near, "
    "and 'p2v-agent sync ID --cutover now' finishes it from the p2v ISO, sending what differs"
)
NOTE = "the image is of no instant yet: finish it with 'sync' from the p2v ISO"


@contextmanager
def open_scan(
    plan: Plan, settings: LiveSettings, refused: Sequence[str] = ()
) -> Iterator[Captured]:
    """Open the disks of a plan, to be compared again and again.

    `refused` says in words what would have been better, and why it was not to be had.

    Raises:
        NotLiveError: the image is to be finished in this run.
        P2VError: a disk cannot be read, or is not what the plan says.
    """
    if settings.cutover.when is not When.LATER:
        names = ", ".join(disk.name for disk in plan.disks)
        raise NotLiveError(disk=names, problem=_NO_END)
    with ExitStack() as stack:
        sources = open_sources(plan, stack, live=True)
        yield ScanCapture(plan, settings, sources, refused)


class ScanCapture(Captured):
    """Disks that are written to and cannot be followed."""

    def __init__(
        self,
        plan: Plan,
        settings: LiveSettings,
        sources: Sequence[Source],
        refused: Sequence[str] = (),
    ) -> None:
        self._plan = plan
        self._limit_s = settings.freeze_limit_s
        self._refused = tuple(refused)
        self._passes: list[dict[str, Any]] = []
        super().__init__(sources, self._settle(sources))

    def capture(self, sender: Sender, *, compare: bool) -> Counters:
        """Send the disks, then what differs, until comparing takes as long as before."""
        total = Counters()
        last = self._pass(sender, total, compare=compare)
        for _ in range(MAX_COMPARISONS):
            self.layouts = self._settle(self.sources)
            now = self._pass(sender, total, compare=True)
            if now > WORTH * last:
                break
            last = now
        return total

    @property
    def notes(self) -> tuple[str, ...]:
        """What came out differently from the plan, in words."""
        return (*super().notes, NOTE, *(f"not captured by {text}" for text in self._refused))

    def report(self) -> dict[str, Any]:
        """Return what the migration's report says beyond its figures."""
        return {"scan": {"passes": self._passes}}

    def _pass(self, sender: Sender, total: Counters, *, compare: bool) -> float:
        begun = time.monotonic()
        phase = "compare" if compare else "full"
        done = sender.send(phase, self.blocks(), self.total, compare=compare)
        seconds = time.monotonic() - begun
        self._passes.append({"sent": done.sent, "seconds": round(seconds, 3)})
        total.add(done)
        return seconds

    def _settle(self, sources: Sequence[Source]) -> list[Layout]:
        _, settled = settle([Path(source.path) for source in sources], self._limit_s)
        return [
            prepare(disk, source, self._plan.all_blocks, set(settled))
            for disk, source in zip(self._plan.disks, sources, strict=True)
        ]
