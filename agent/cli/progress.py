# SPDX-License-Identifier: GPL-3.0-or-later
"""How a migration's progress is shown: a bar on a terminal, JSON lines for programs, or only waits.

Progress goes to stderr, so that stdout holds the result alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from agent.migration import PASSES, VERIFYING, WAITING
from agent.migration import Progress as State
from p2v.model.command import printable
from p2v.model.units import format_size

LINE_S = 1.0
"""JSON lines come about once a second, and whenever the phase changes."""
WINDOW_S = 10.0


class Display(Protocol):
    """Shows progress; a context manager."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *error: object) -> None: ...

    def show(self, state: State) -> None:
        """Show where the migration stands."""


def make_display(mode: str) -> Display:
    """Return the display for ``auto``, ``json`` or ``none``; `auto` is a bar on a terminal."""
    if mode == "none":
        return Quiet()
    return Bar() if mode == "auto" and sys.stderr.isatty() else JsonLines()


class Rate:
    """Bytes a second over the last `WINDOW_S`, and the time left at that rate."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._phase = ""

    def add(self, state: State) -> tuple[float, float | None]:
        """Return (bytes a second, seconds left or None where nothing can be said)."""
        if state.phase != self._phase:
            self._seen.clear()
            self._phase = state.phase
        self._seen.append((state.elapsed_s, state.done))
        while len(self._seen) > 2 and self._seen[0][0] < state.elapsed_s - WINDOW_S:
            self._seen.popleft()
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        if end <= start or last <= first:
            return 0.0, None
        rate = (last - first) / (end - start)
        return rate, max(0, state.total - state.done) / rate


class Quiet:
    """Shows no progress, but says why there is none: else a wait looks like work."""

    def __init__(self) -> None:
        self._problem = ""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: each line is complete."""

    def show(self, state: State) -> None:
        """Say what is waited for, once, and when it goes on."""
        if state.problem == self._problem:
            return
        self._problem = state.problem
        said = "going on"
        if state.problem:
            said = f"waiting: {printable(state.problem)} It goes on by itself once that is over."
        print(f"p2v-agent: {said}", file=sys.stderr, flush=True)


class JsonLines:
    """One JSON object a line (docs/json.md): `type` first, `seq` counts up."""

    def __init__(self) -> None:
        self._rate = Rate()
        self._next = 0.0
        self._phase = ""
        self._sequence = 0

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: each line is complete."""

    def show(self, state: State) -> None:
        """Print a line if it is time for one."""
        rate, left = self._rate.add(state)
        now = time.monotonic()
        if now < self._next and state.phase == self._phase:
            return
        self._next, self._phase = now + LINE_S, state.phase
        self._sequence += 1
        counters = state.counters
        line = {
            "type": "progress",
            "schema": 1,
            "seq": self._sequence,
            "migration": state.migration,
            "phase": state.phase,
            "done": state.done,
            "total": state.total,
            "rate": round(rate),
            "eta_s": None if left is None else round(left),
            "elapsed_s": round(state.elapsed_s, 1),
            "read": counters.read,
            "zero": counters.zero,
            "same": counters.same,
            "sent": counters.sent,
            "wire": counters.wire,
            "durable": counters.durable,
            "reconnects": counters.reconnects,
            "codec": state.codec,
            "problem": state.problem,
        }
        if (outlook := state.outlook) is not None:
            line |= {
                "dirty": outlook.dirty,
                "churn": round(outlook.churn),
                "freeze_s": round(outlook.freeze_s, 4),
                "finish_s": None if outlook.finish_s is None else round(outlook.finish_s),
                "outrun": outlook.outrun,
                "outlook": outlook.text,
            }
        print(json.dumps(line), file=sys.stderr, flush=True)


class _Field(ProgressColumn):
    """A column that shows a field of the task; ASCII only, for any console."""

    max_refresh = None

    def __init__(self, name: str) -> None:
        self._name = name
        super().__init__()

    def render(self, task: Task) -> Text:
        """Return the field's text."""
        return Text(str(task.fields.get(self._name, "")))


class Bar:
    """A bar with rate, time left, ratio and what is being skipped."""

    def __init__(self) -> None:
        self._rate = Rate()
        console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            _Field("figures"),
            console=console,
            refresh_per_second=4,
            expand=True,
        )
        self._task = self._progress.add_task("starting", total=None, figures="")
        self._problem = ""
        self._said: tuple[str, bool] | None = None
        """Of which phase the outlook was printed last, and whether it was a warning."""
        self._outlook = ""

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, state: State) -> None:
        """Redraw the bar."""
        rate, left = self._rate.add(state)
        if state.problem and state.problem != self._problem:
            self._progress.console.print(f"waiting: {state.problem}", markup=False)
        self._problem = state.problem
        self._say(state)
        self._progress.update(
            self._task,
            description="waiting" if state.problem else state.phase,
            completed=state.done,
            total=state.total,
            figures=figures(state, rate, left),
        )

    def _say(self, state: State) -> None:
        """Print what is to be expected, once a phase, and when writes begin to outrun it."""
        outlook = state.outlook
        if outlook is None or outlook.text == self._outlook:
            return
        if self._said != (now := (state.phase, outlook.outrun)):
            self._said, self._outlook = now, outlook.text
            warning = "warning: " if outlook.outrun else ""
            self._progress.console.print(f"{warning}{outlook.text}", markup=False)


def figures(state: State, rate: float, left: float | None) -> str:
    """Return the figures beside the bar, within 55 columns."""
    counters = state.counters
    if state.phase == WAITING and state.outlook is not None:
        return f"{format_size(state.outlook.churn)}/s written, cut over when you like"
    if state.phase == VERIFYING:
        return f"{format_size(rate)}/s eta {format_time(left)}"
    if state.phase not in PASSES:
        return f"{format_size(state.total)} received"
    parts = [f"{format_size(rate)}/s", f"eta {format_time(left)}"]
    if counters.wire:
        parts.append(f"x{counters.sent / counters.wire:.1f} {state.codec}")
    if skipped := counters.zero + counters.same:
        parts.append(f"skip {format_size(skipped)}")
    return " ".join(parts)


def format_time(seconds: float | None) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``, ``-:--`` where they are not known."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
