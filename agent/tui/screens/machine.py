# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found, problems first."""

from __future__ import annotations

from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from agent.preflight.check import preflight
from agent.preflight.finding import Finding, Level
from agent.tui.step import Step
from agent.tui.text import STYLES, finding_line, machine_lines
from agent.tui.widgets import Rows
from p2v.model.command import printable
from p2v.model.errors import P2VError
from p2v.model.machine import Machine

LOAD_WINDOW_S = 2.0


class MachineStep(Step):
    """Takes the inventory and shows what stands in the way."""

    name_shown = "This machine"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "look", "Look again", key_display="^R")
    ]

    def body(self) -> ComposeResult:
        """Yield facts, findings and the current finding's explanation."""
        yield Static("", id="facts", classes="text", markup=False)
        yield Static("", id="count", classes="title", markup=False)
        yield Rows(id="findings")
        yield Static("", id="advice", classes="pane", markup=False)

    def on_mount(self) -> None:
        """Show what is known, or look."""
        self._findings: tuple[Finding, ...] = ()
        if self.draft.machine is None:
            self.action_look()
        else:
            self._show()

    def action_look(self) -> None:
        """Take the inventory anew."""
        self.say("Looking at this machine ...")
        self._look()

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        try:
            machine = self.wizard.look()
        except P2VError as error:
            self.app.call_from_thread(self.fail, error)
            return
        self.app.call_from_thread(self._found, machine)

    def _found(self, machine: Machine) -> None:
        self.draft.look_at(machine)
        self.say("")
        if self.is_attached:
            self._show()

    def _show(self) -> None:
        machine = self.draft.found
        self._findings = preflight(machine)
        self.query_one("#facts", Static).update("\n".join(machine_lines(machine)))
        counts = [f"{sum(f.level is level for f in self._findings)} {level}" for level in Level]
        self.query_one("#count", Static).update("Findings: " + ", ".join(counts))
        rows = self.query_one("#findings", Rows)
        rows.show([Content.styled(finding_line(f), STYLES[f.level]) for f in self._findings])
        rows.focus()

    @on(Rows.OptionHighlighted, "#findings")
    def _explain(self, event: Rows.OptionHighlighted) -> None:
        finding = self._findings[event.option_index]
        about = f" about {finding.subject}" if finding.subject else ""
        action = finding.action or "nothing; it is good to know."
        text = f"{finding.level.capitalize()}. What to do{about}: {action}"
        self.query_one("#advice", Static).update(printable(text))

    def leave(self) -> bool:
        """Go on once the inventory is there."""
        if self.draft.machine is None:
            self.say("The inventory is not there yet; it takes some seconds.")
        return self.draft.machine is not None
