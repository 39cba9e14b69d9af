# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are written to while they are captured: passes until a short freeze is enough.

What makes the copy right is an order: the tracker runs before the first byte is read; what it
marked is read after its marks were taken; and the last of it while all is frozen. Whatever breaks
that (the tracker in doubt, a freeze that took too long) leads to a comparison or another pass,
never to an image.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agent.capture.layout import Layout, prepare
from agent.capture.source import Source
from agent.capture.tracker import choose
from agent.captured import Captured, Outlook, Sender, open_sources
from agent.device import is_block
from agent.live.cutover import When
from agent.live.filesystems import writable_on
from agent.live.freeze import Freeze, frozen, settle
from agent.live.hooks import Hooks
from agent.live.instant import Instant, MemoryFullError
from agent.live.passes import (
    MAX_TAKEN,
    Forecast,
    Limits,
    Next,
    Pass,
    forecast,
    format_seconds,
    under_way,
)
from agent.live.settings import LiveSettings
from agent.live.writes import Writes
from agent.stream.lane import Counters
from p2v.model.errors import FreezeError, NotLiveError, ProtocolError, TooBusyError, UsageError
from p2v.model.plan import Plan
from p2v.model.units import KiB, MiB, format_size

log = logging.getLogger(__name__)

WARM_S = 60.0
"""How often a pass keeps an image warm that waits for its cut-over."""
MAX_COMPARISONS = 10
"""In a row: a tracker that cannot be trusted for the time of one pass is none."""
MAX_FREEZES = 10
REFUSED_S = 5.0
"""After so long a freeze that was refused is tried again: a backup's own, say, is over by then."""
_ROUNDS = 8
_GRANULE = 64 * KiB
_HEADROOM = 8 * MiB


@contextmanager
def open_live(plan: Plan, settings: LiveSettings) -> Iterator[Captured]:
    """Open the disks of a plan and follow what is written to them.

    Raises:
        NotLiveError: that can't be followed.
        HookError: the hooks are not to be trusted.
        P2VError: a disk cannot be read, or is not what the plan says.
    """
    with ExitStack() as stack:
        sources = open_sources(plan, stack, live=True)
        for source in sources:
            if not is_block(source.path):
                raise NotLiveError(disk=source.path, problem="it is a file; name its loop device")
        if settings.folder is not None:
            _refuse_own_disk(settings.folder, [source.path for source in sources])
        choice = choose([source.path for source in sources])
        if choice.tracker is not None:
            stack.callback(choice.tracker.close)
        if choice.tracker is None or choice.untracked:
            names = ", ".join(choice.untracked)
            raise NotLiveError(disk=names, problem="; ".join(choice.reasons))
        instant = Instant(sources, MAX_TAKEN)
        stack.callback(instant.close)
        writes = Writes(choice.tracker, [source.path for source in sources])
        hooks = Hooks(settings.hooks)
        yield LiveCapture(plan, settings, sources, writes, hooks, instant, choice.reasons)


def _refuse_own_disk(folder: Path, disks: Sequence[Path]) -> None:
    """Make sure that the images are not written to the disks that they are made of."""
    device = folder.stat().st_dev
    with writable_on(disks) as systems:
        for system in systems:
            if os.fstat(system.fd).st_dev == device:
                raise UsageError(
                    problem=f"{folder} is on the disk that is captured; give a folder elsewhere"
                )


class LiveCapture(Captured):
    """Disks that are written to, captured at the instant of one freeze."""

    def __init__(
        self,
        plan: Plan,
        settings: LiveSettings,
        sources: Sequence[Source],
        writes: Writes,
        hooks: Hooks,
        instant: Instant,
        reasons: Sequence[str] = (),
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._paths = [source.path for source in sources]
        self._writes = writes
        self._hooks = hooks
        self._instant = instant
        self._reasons = reasons
        self._limits = Limits(settings.freeze_limit_s)
        self._due = settings.cutover.due(commanded=False)
        self._passes: list[Pass] = []
        self._recent: list[Pass] = []
        self._freezes: list[Freeze] = []
        self._refusals = 0
        self._troubles: list[str] = []
        self._in_a_row = 0
        self._since = time.monotonic()
        super().__init__(sources, self._settle(sources))
        writes.know(self.layouts)

    def capture(self, sender: Sender, *, compare: bool) -> Counters:
        """Send passes, then what the freeze shows; return what all that took."""
        total = Counters()
        self._look(sender)
        total.add(self._whole(sender, compare=compare))
        while True:
            if doubts := self._writes.doubts:
                total.add(self._compare(sender, doubts))
                continue
            expected = self._expect(sender)
            if expected.next is Next.DELTA:
                total.add(self._delta(sender, "delta"))
            elif self._settings.cutover.when is When.LATER:
                return total
            elif not self._due:
                if self._wait(sender):
                    self._due, self._recent = True, self._recent[-1:]
                else:
                    self._in_a_row = 0
                    total.add(self._delta(sender, "warm"))
            elif (captured := self._cut_over(sender, expected, total)) is not None:
                return captured

    def written(self) -> int | None:
        """Return how many bytes wait to be sent again, and chart where they are."""
        for disk in range(len(self.sources)):
            self.chart.set_dirty(disk, self._writes.parts(disk, self.chart.step(disk)))
        return self._writes.bytes

    def report(self) -> dict[str, Any]:
        """Return how the live capture went; the disks are those of the last freeze."""
        last = self._freezes[-1] if self._freezes else None
        return {
            "live": {
                "tracker": list(self._reasons),
                "passes": [
                    {"bytes": each.bytes, "seconds": round(each.seconds, 3), "left": each.written}
                    for each in self._passes[-100:]
                ],
                "frozen_at": last and round(last.at, 4),
                "freeze_s": last and round(last.seconds, 4),
                "freezes": len(self._freezes),
                "troubles": self._troubles[-100:],
            }
        }

    # --- passes

    def _whole(self, sender: Sender, *, compare: bool) -> Counters:
        """Send all of the disks, or what differs of them."""
        phase, watch = "compare" if compare else "full", self._watch(sender, self.total)
        return self._timed(
            self.total,
            lambda: sender.send(phase, self.blocks(), self.total, compare=compare, watch=watch),
        )

    def _compare(self, sender: Sender, why: Sequence[str]) -> Counters:
        """Begin anew, as the copy may lack something: what was free then may not have been."""
        self._note("; ".join(why), "everything is compared")
        self._in_a_row += 1
        if self._in_a_row > MAX_COMPARISONS:
            raise NotLiveError(disk=", ".join(map(str, self._paths)), problem="; ".join(why))
        self._writes.forget()
        self.layouts = self._settle(self.sources)
        self._writes.know(self.layouts)
        self._recent.clear()
        return self._whole(sender, compare=True)

    def _delta(self, sender: Sender, phase: str) -> Counters:
        """Send what was written since the last pass."""
        with writable_on(self._paths) as systems:
            for system in systems:
                system.sync()
        size, queue = self._writes.take()
        if not size:
            return self._timed(size, Counters)
        moved, watch = self._writes.moved, self._watch(sender, size)
        return self._timed(
            size, lambda: sender.send(phase, queue, size, announce=True, moved=moved, watch=watch)
        )

    def _timed(self, size: int, send: Callable[[], Counters]) -> Counters:
        begun = time.monotonic()
        counters = send()
        done = Pass(size, time.monotonic() - begun, self._writes.bytes)
        self._passes.append(done)
        self._recent.append(done)
        return counters

    def _expect(self, sender: Sender) -> Forecast:
        """Look at what was written since, and say what comes."""
        dirty = self._writes.bytes
        expected = forecast(self._recent, dirty, -(-dirty // _GRANULE), self._limits)
        sender.outlook(_outlook(expected, dirty))
        return expected

    def _watch(self, sender: Sender, total: int) -> Callable[[int], None]:
        """Return what works out, while a pass over `total` bytes is sent, what is to come."""
        begun = time.monotonic()

        def watch(done: int) -> None:
            dirty = self._writes.bytes
            so_far = Pass(done, time.monotonic() - begun, dirty)
            expected = under_way(so_far, max(0, total - done), self._limits)
            sender.outlook(_outlook(expected, dirty))

        return watch

    def _look(self, sender: Sender) -> None:
        """Say what is known before the first pass: how much is written."""
        dirty = self._writes.bytes
        churn = dirty / max(time.monotonic() - self._since, 0.001)
        text = f"{format_size(churn)}/s are written; freezing takes "
        text += f"{format_seconds(self._limits.overhead_s)} by itself."
        sender.outlook(Outlook(text, dirty, churn, self._limits.overhead_s))

    def _wait(self, sender: Sender) -> bool:
        """Wait for the cut-over; return False when the image wants another pass meanwhile."""
        cutover = self._settings.cutover
        until = time.monotonic() + WARM_S
        commanded = False
        while not cutover.due(commanded):
            if (left := until - time.monotonic()) <= 0:
                return False
            commanded = sender.wait("waiting", cutover.wait_s(left))
        return True

    # --- the freeze

    def _cut_over(self, sender: Sender, expected: Forecast, total: Counters) -> Counters | None:
        """Freeze and send the last of it; return None if that has to be done again."""
        if expected.next is Next.GIVE_UP:
            raise TooBusyError(problem=expected.describe().rstrip("."))
        if len(self._freezes) >= MAX_FREEZES:
            raise FreezeError(path=", ".join(map(str, self._paths)), problem=self._troubles[-1])
        total.add(self._delta(sender, "delta"))
        try:
            trouble, doubts = self._freeze()
        except FreezeError as error:
            if (refusals := self._refusals + 1) >= MAX_FREEZES:
                raise
            self._refusals = refusals
            self._note(str(error).rstrip("."), "the freeze is tried again")
            sender.wait("waiting", REFUSED_S)
            return None
        if doubts:
            total.add(self._compare(sender, doubts))
            return None
        if trouble:
            self._note(trouble, "the freeze is repeated")
            return None
        queue = self._instant.blocks
        try:
            size = sum(block.length for block in queue)
            total.add(sender.send("final", queue, size, announce=True) if queue else Counters())
        except ProtocolError as error:
            total.add(self._compare(sender, [str(error).rstrip(".")]))
            return None
        return total

    def _freeze(self) -> tuple[str, list[str]]:
        """Freeze all and take what was written last.

        Return why that is not the disks' state: what went wrong, and doubts of the tracker, which
        are asked for while nothing is written, as only then it knows for sure.
        """
        taken: list[tuple[int, Any]] = []
        trouble = ""
        with writable_on(self._paths) as systems, self._hooks.around():
            for system in systems:
                system.sync()
            self._instant.prepare(self._writes.bytes + _HEADROOM)
            with frozen(systems, self._limits.freeze_s) as freeze:
                try:
                    quiet = self._take(freeze, taken)
                    trouble = "" if quiet else "something writes past the file systems"
                except MemoryFullError:
                    trouble = "more was written than there is memory for"
                doubts = self._writes.doubts
                freeze.check()
        self._freezes.append(freeze)
        if freeze.late:
            trouble = f"it took longer than {format_seconds(self._limits.freeze_s)}"
        if trouble or doubts:
            for disk, written in taken:
                self._writes.give_back(disk, written)
        return trouble, doubts

    def _take(self, freeze: Freeze, taken: list[tuple[int, Any]]) -> bool:
        """Read what was written until no more is; nothing here may wait for a frozen disk."""
        for system in freeze.unfrozen:
            system.sync()
        for _ in range(_ROUNDS):
            count = 0
            for disk, written, changes in self._writes.take_frozen():
                taken.append((disk, written))
                count += self._instant.take(disk, changes)
            if not count:
                return True
        return False

    def _note(self, trouble: str, consequence: str) -> None:
        self._troubles.append(trouble)
        log.warning("%s: %s", trouble, consequence)

    def _settle(self, sources: Sequence[Source]) -> list[Layout]:
        """Read the maps of used blocks once they are right; measure what a freeze will cost."""
        freeze, settled = settle(self._paths, self._limits.freeze_s)
        rate = self._instant.read_rate([source.size for source in sources])
        self._limits = Limits(self._settings.freeze_limit_s, freeze.seconds, rate)
        return [
            prepare(disk, source, self._plan.all_blocks, settled)
            for disk, source in zip(self._plan.disks, sources, strict=True)
        ]


def _outlook(expected: Forecast, dirty: int) -> Outlook:
    return Outlook(
        expected.describe(),
        dirty,
        expected.churn,
        expected.freeze_s,
        expected.finish_s,
        expected.outrun,
    )
