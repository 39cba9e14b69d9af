# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan, its warnings to be accepted one by one, and the same as command and file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from agent.job.launch import start_job
from agent.tui.screens.question import Entry
from agent.tui.step import Step
from agent.tui.text import count, plan_lines
from agent.tui.widgets import Pick, Rows
from p2v.model import planfile
from p2v.model.command import printable
from p2v.model.errors import P2VError

_CUTOVERS = ("cut over as soon as it has caught up", "wait, and cut over when told to")
_VIEWS = ("summary", "command line", "plan file")


class SummaryStep(Step):
    """The last look before the copy starts."""

    name_shown = "Summary"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "next", "START", key_display="^N", priority=True),
        Binding("space", "accept", "Accept warning", key_display="space"),
        Binding("ctrl+w", "save", "Save plan", key_display="^W"),
    ]

    def body(self) -> ComposeResult:
        """Yield the views of the plan and the warnings."""
        self._plan = self.draft.plan()
        yield Pick(_VIEWS, id="view")
        if self._plan.live:
            yield Pick(_CUTOVERS, int(self.draft.wait), id="cutover")
        with VerticalScroll(id="shown", can_focus=True):
            yield Static("", id="text", classes="text", markup=False)
        yield Static("", id="todo", classes="title", markup=False)
        yield Rows(id="warnings")

    def on_mount(self) -> None:
        """Show the plan in words."""
        self._show_view()
        self._show_warnings()
        self.query_one("#warnings" if self._plan.warnings else "#view").focus()

    @on(Pick.Changed, "#view")
    def _show_view(self) -> None:
        match self.query_one("#view", Pick).index:
            case 0:
                text = "\n".join(plan_lines(self.draft, self._plan))
            case 1:
                text = "The same without this wizard, with the plan saved by ^W:\n\n  " + printable(
                    self.draft.command(f"{self._plan.name}.toml")
                )
            case _:
                lines = planfile.dump(self._plan).splitlines()
                text = "\n".join(printable(line) for line in lines)
        self.query_one("#text", Static).update(text)

    @on(Pick.Changed, "#cutover")
    def _take_cutover(self, event: Pick.Changed) -> None:
        self.draft.wait = bool(event.pick.index)

    def _show_warnings(self) -> None:
        warnings = self._plan.warnings
        left = len(self.draft.pending(self._plan))
        if not warnings:
            todo = "No warnings. ^N starts the migration."
        elif left:
            todo = (
                f"{left} of {count(len(warnings), 'warning')} to accept, each with the space bar:"
            )
        else:
            todo = "All warnings are accepted. ^N starts the migration."
        self.query_one("#todo", Static).update(todo)
        rows = self.query_one("#warnings", Rows)
        rows.display = bool(warnings)
        rows.show(
            [
                Text(printable(f"[{'x' if each in self.draft.accepted else ' '}] {each}"))
                for each in warnings
            ]
        )

    @on(Rows.OptionSelected, "#warnings")
    def action_accept(self) -> None:
        """Accept the current warning, or take that back."""
        at = self.query_one("#warnings", Rows).highlighted
        if at is not None and self._plan.warnings:
            self.draft.accepted ^= {self._plan.warnings[at]}
            self._show_warnings()

    @work
    async def action_save(self) -> None:
        """Save the plan as a file."""
        name = f"{Path.cwd() / self._plan.name}.toml"
        chosen = await self.app.push_screen_wait(Entry("Save the plan as:", name))
        if not chosen:
            return
        try:
            Path(chosen).expanduser().write_text(planfile.dump(self._plan), encoding="utf-8")
        except OSError as error:
            self.say(f"{chosen} cannot be written: {error.strerror}.", error=True)
            return
        self.say(f"The plan is in {chosen}.")

    def action_next(self) -> None:
        """Start the migration, once all warnings are accepted."""
        if left := self.draft.pending(self._plan):
            self.say(
                f"{count(len(left), 'warning')} not accepted yet; go there with Tab, press space.",
                error=True,
            )
            return
        self.say("Starting ...")
        try:
            job = start_job(self._plan, self.draft.target, wait=self.draft.wait)
        except P2VError as error:
            self.fail(error)
            return
        self.wizard.watch_job(job)
