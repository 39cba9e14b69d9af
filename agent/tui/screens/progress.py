# SPDX-License-Identifier: GPL-3.0-or-later
"""A job under way: figures, a map of each disk, the log, and the levers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from agent.job.folder import Job
from agent.job.server import ask
from agent.job.state import JobState
from agent.stream.chart import CELLS
from agent.tui.screens.question import Entry, Question
from agent.tui.step import Step
from agent.tui.text import PASSES, bar, chart_line, count, curve, progress_line
from p2v.model.command import printable
from p2v.model.errors import UsageError
from p2v.model.units import format_size, parse_size

_LEGEND = "# copied  - zero, free  = there already  * dirty  ! unreadable  . to do"
_COLOURS = {"#": "ansi_green", "=": "ansi_green", "*": "ansi_yellow", "!": "bold ansi_red"}
_LOG_LINES = 4
"""Kept for the log, however many disks there are."""
_STOP = """Stop this migration? Type one of these words, and Enter:

  stop      end it now; what was sent is kept, and can be resumed
  discard   end it for good; the converter deletes what it has

The disks of this machine are not touched either way."""
_CUT_OVER = (
    "Cut over now? Type cutover, and Enter.\n\nThe file systems are frozen for a moment and the "
    "last changes are copied: the image is this machine as it was at that instant. What is "
    "written afterwards is not in it. Stop the services first, or shut this machine down "
    "afterwards."
)
_GRACE_S = 30.0
"""How long a started process may take to say something."""


class ProgressStep(Step):
    """Reads the job's state once a second; the job does not notice."""

    name_shown = "Migration"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "none", show=False),
        Binding("escape,ctrl+b", "none", show=False),
        Binding("p", "pause", "Pause/go on"),
        Binding("t", "throttle", "Throttle"),
        Binding("c", "cut_over", "Cut over"),
        Binding("k", "stop", "Stop"),
        Binding("ctrl+x", "app.leave", "Detach (it goes on)", key_display="^X", priority=True),
    ]

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job
        self._state: JobState | None = None
        self._status: tuple[str, str, bool, bool] | None = None
        self._sent: dict[str, str | Content] = {}
        self._began = time.monotonic()

    def body(self) -> ComposeResult:
        """Yield the lines."""
        yield Static("Starting ...", id="line", markup=False)
        yield Static("", id="bar", markup=False)
        yield Static("", id="figures", classes="text", markup=False)
        yield Static("", id="curves", classes="text", markup=False)
        yield Static("", id="disks", classes="text", markup=False)
        yield Static(_LEGEND, id="legend", markup=False)
        yield Static("", id="log", classes="log", markup=False)

    def on_mount(self) -> None:
        """Look at once, and then again and again."""
        self.set_interval(self.wizard.terminal.interval_s, self._look)
        self._look()

    def _look(self) -> None:
        state = self._job.state()
        if state is None or not state.over:
            late = time.monotonic() - self._began > _GRACE_S
            if not self._job.alive() and (state is not None or late):
                state = self._job.state()  # it may have ended between the two looks
                if state is None or not state.over:
                    self.wizard.show_result(self._job)
                    return
        if state is None or not (self.is_current or state.over):
            return
        if state.over:
            self.wizard.show_result(self._job)
            return
        if state != self._state:
            self._state = state
            self._show(state)

    def _show(self, state: JobState) -> None:
        width = max(20, self.size.width - 2)
        self._set("#line", progress_line(state))
        self._set("#bar", bar(state.done, state.total, width, self.glyphs))
        self._set("#figures", "\n".join(_figures(state)))
        slow = self.wizard.terminal.slow
        if not slow:
            self._set("#curves", "\n".join(self._curves(state, width)))
        self._set("#disks", self._disks(state, width))
        if not slow:
            room = max(1, self.query_one("#log").size.height)
            self._set("#log", "\n".join(printable(x) for x in self._job.log_lines(room)))
        self._say_status(state)

    def _say_status(self, state: JobState) -> None:
        """Say why it stands still; what a key was answered stays until something changes."""
        status = (state.phase, state.problem, state.paused, bool(state.outlook))
        if status == self._status:
            return
        self._status = status
        if state.problem:
            self.say(f"Waiting: {state.problem}")
        else:
            self.say("Paused. p goes on." if state.paused else "")
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to cut over only what is live."""
        if action == "cut_over":
            return self._state is not None and bool(self._state.outlook)
        return super().check_action(action, parameters)

    def _set(self, selector: str, text: str | Content) -> None:
        """Update a line if it changed: a serial line is not sent what it shows already."""
        widget = self.query_one(selector, Static)
        widget.display = bool(text)
        if self._sent.get(selector) != text:
            self._sent[selector] = text
            widget.update(text)

    def _curves(self, state: JobState, width: int) -> Iterator[str]:
        if state.phase in PASSES:
            yield "read    " + curve(state.rates, width - 8, self.glyphs)
        if state.dirty is not None:
            yield "written " + curve(state.churns, width - 8, self.glyphs)

    def _disks(self, state: JobState, width: int) -> Content:
        """Return the charts: as many lines for each disk as there are, so that no cell is lost."""
        figures = len(_figures(state)) + (0 if self.wizard.terminal.slow else 2)
        room = max(2, self.size.height - figures - 7 - _LOG_LINES)
        shown = state.disks[:room]
        text: list[tuple[str, str]] = []
        for number, disk in enumerate(shown):
            percent = f"{100 * disk.done // disk.size if disk.size else 100:>3} %"
            head = printable(f"{disk.name[:12]:<12} {percent} ")
            cells = width - len(head)
            rows = 1 if self.wizard.terminal.slow else min(room // len(shown), -(-CELLS // cells))
            chart = chart_line(disk.cells, cells * rows if rows > 1 else cells)
            for row in range(max(1, rows)):
                start = head if not row else " " * len(head)
                text.append((("\n" if number + row else "") + start, ""))
                for mark, run in groupby(chart[row * cells : (row + 1) * cells]):
                    text.append(("".join(run), _COLOURS.get(mark, "")))
        if len(state.disks) > room:
            text.append((f"\nand {len(state.disks) - room} more disks", ""))
        return Content.assemble(*text)

    @work(thread=True, group="ask")
    def _ask(self, request: dict[str, Any]) -> None:
        """Ask the job's process; it may be busy for a moment."""
        try:
            ask(self._job.socket, request)
        except (OSError, ValueError) as error:
            said = f"The migration does not answer: {error}. It is asked again with the same key."
            self.app.call_from_thread(self.say, said, error=True)

    def action_none(self) -> None:
        """Do nothing: there is no way back from here but to stop."""

    def action_pause(self) -> None:
        """Pause, or go on."""
        paused = self._state is not None and self._state.paused
        self._ask({"do": "go-on" if paused else "pause"})
        self.say("Going on ..." if paused else "Pausing ...")

    @work
    async def action_throttle(self) -> None:
        """Limit the rate."""
        text = "At most so many bytes a second (10M, 500k; 0 for no limit):"
        answer = await self.app.push_screen_wait(Entry(text))
        if not answer:
            return
        try:
            rate = 0 if answer == "0" else parse_size(answer)
        except UsageError as error:
            self.fail(error)
            return
        self._ask({"do": "limit", "rate": rate})

    @work
    async def action_cut_over(self) -> None:
        """Ask whether to freeze and finish now."""
        state = self._state
        if state is None:
            return
        text = f"{_CUT_OVER}\n\nExpected now: {state.outlook}"
        if await self.app.push_screen_wait(Question(text, ("cutover",))):
            self._ask({"do": "cutover"})
            self.say("Cutting over ...")

    @work
    async def action_stop(self) -> None:
        """Ask whether to stop, and how."""
        word = await self.app.push_screen_wait(Question(_STOP, ("stop", "discard")))
        if word:
            self._ask({"do": "stop", "discard": word == "discard"})
            self.say("Stopping ...")


def _figures(state: JobState) -> list[str]:
    ratio = f", {state.sent / state.wire:.1f} to 1 by {state.codec}" if state.wire else ""
    limit = f", at most {format_size(state.bwlimit)}/s" if state.bwlimit else ""
    again = f", reconnected {count(state.reconnects, 'time')}" if state.reconnects else ""
    lines = [
        f"{state.name} to {state.target}, migration {state.migration or '...'}",
        f"read {format_size(state.read)}, sent {format_size(state.wire)}{ratio}{limit}",
        f"skipped {format_size(state.zero + state.same)}, safe on the converter "
        f"{format_size(state.durable)}{again}",
    ]
    if state.dirty is not None:
        rate = f"{format_size(state.churn)}/s"
        lines.append(f"dirty {format_size(state.dirty)}, written since it was read, at {rate}")
    if state.outlook:
        lines.append(f"cut-over: {state.outlook}")
    return [printable(line) for line in lines]
