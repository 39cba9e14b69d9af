# SPDX-License-Identifier: GPL-3.0-or-later
"""A job under way: figures, a map of each disk, the log, and the levers."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from agent.job.folder import Job
from agent.job.server import ask
from agent.job.state import JobState
from agent.tui.screens.question import Entry, Question
from agent.tui.step import Step
from agent.tui.text import PASSES, bar, chart_line, curve, progress_line
from p2v.model.command import printable
from p2v.model.errors import UsageError
from p2v.model.units import format_size, parse_size

_LEGEND = "# copied  - zero or free  = there already  ! unreadable  . to do"
_STOP = """Stop this migration?

  stop      end it now; the converter keeps what it has, and it can be resumed
  discard   end it for good; the converter deletes what it has

The disks of this machine are not touched either way."""
_CUT_OVER = """Cut over now? Type cutover.

The file systems are frozen for a moment, the last changes are copied, and the
image is this machine as it was at that instant. What is written afterwards is
not in it: stop the services first, or shut this machine down afterwards."""
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
        self._began = time.monotonic()

    def body(self) -> ComposeResult:
        """Yield the lines."""
        yield Static("Starting ...", id="line", markup=False)
        yield Static("", id="bar", markup=False)
        yield Static("", id="figures", classes="text", markup=False)
        yield Static("", id="curve", markup=False)
        yield Static("", id="disks", classes="text title", markup=False)
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
        self._set("#figures", "\n".join(self._figures(state)))
        slow = self.wizard.terminal.slow
        if not slow and state.phase in PASSES:
            head = "rate "
            self._set("#curve", head + curve(state.rates, width - len(head), self.glyphs))
        self._set("#disks", "\n".join(self._disks(state, width)))
        if not slow:
            room = max(1, self.query_one("#log").size.height)
            self._set("#log", "\n".join(printable(x) for x in self._job.log_lines(room)))
        if state.problem:
            self.say(f"Waiting: {state.problem}")
        elif state.paused:
            self.say("Paused. p goes on.")
        else:
            self.say("")

    def _set(self, selector: str, text: str) -> None:
        """Update a line if it changed: a serial line is not sent what it shows already."""
        widget = self.query_one(selector, Static)
        if str(widget.content) != text:
            widget.update(text)

    def _figures(self, state: JobState) -> list[str]:
        ratio = f", {state.sent / state.wire:.1f} to 1 by {state.codec}" if state.wire else ""
        limit = f", at most {format_size(state.bwlimit)}/s" if state.bwlimit else ""
        skipped = format_size(state.zero + state.same)
        return [
            printable(f"{state.name} to {state.target}, migration {state.migration or '...'}"),
            f"read {format_size(state.read)}, sent {format_size(state.wire)}{ratio}{limit}",
            f"skipped {skipped}, safe on the converter {format_size(state.durable)}, "
            f"reconnected {state.reconnects} times",
            *([printable(f"live: {state.outlook}")] if state.outlook else []),
        ]

    def _disks(self, state: JobState, width: int) -> list[str]:
        room = max(2, self.size.height - 16)
        lines = []
        for disk in state.disks[:room]:
            percent = f"{100 * disk.done // disk.size if disk.size else 100:>3} %"
            head = printable(f"{disk.name[:12]:<12} {percent} ")
            lines.append(head + chart_line(disk.cells, width - len(head)))
        if len(state.disks) > room:
            lines.append(f"and {len(state.disks) - room} more disks")
        return [*lines, _LEGEND]

    def _ask(self, request: dict[str, Any]) -> None:
        try:
            ask(self._job.socket, request)
        except (OSError, ValueError) as error:
            self.say(f"The migration does not answer: {error}", error=True)

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
        if state is None or not state.outlook:
            self.say("There is no cut-over: this migration is not live, or still copies.")
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
