# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan, its warnings to be accepted one by one, and the same as command, script and file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from agent.credentials import find_credentials
from agent.job.launch import start_job
from agent.stream.remote import Address, RemoteConverter
from agent.tui.screens.question import Entry
from agent.tui.step import Step
from agent.tui.text import count, plan_lines
from agent.tui.widgets import Pane, Pick, Rows, Tabs
from p2v.model import planfile
from p2v.model.command import printable
from p2v.model.errors import P2VError
from p2v.model.plan import Plan

_CUTOVERS = ("cut over as soon as it has caught up", "wait, and cut over when told to")
_SUMMARY, _COMMAND, _SCRIPT, _FILE = range(4)
_SHELLS = {"hyperv": "PowerShell"}
"""What a hypervisor's script is for; a shell elsewhere."""


class SummaryStep(Step):
    """The last look before the copy starts."""

    name_shown = "Summary"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "next", "START", key_display="^N", priority=True),
        Binding("space", "accept", "Accept warning", key_display="space"),
        Binding("ctrl+w", "save", "Save what is shown", key_display="^W"),
    ]

    def body(self) -> ComposeResult:
        """Yield the views of the plan and the warnings."""
        self._plan = self.draft.plan()
        self._kind, self._script = self._usual_kind(), "Asking for the script ..."
        name = f"{_SHELLS.get(self._kind, 'Shell')} script"
        yield Tabs(("Summary", "Command line", name, "Plan file"), id="view")
        if self._plan.live:
            yield Pick(_CUTOVERS, int(self.draft.wait), id="cutover")
        with Pane(id="shown"):
            yield Static("", id="text", classes="text", markup=False)
        yield Static("", id="todo", classes="title", markup=False)
        yield Rows(id="warnings")

    def on_mount(self) -> None:
        """Show the plan in words."""
        self._show_view()
        self._show_warnings()
        self.query_one("#warnings" if self._plan.warnings else "#view").focus()
        self._ask_script()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to accept warnings where there are some."""
        if action == "accept":
            return bool(self._plan.warnings)
        return super().check_action(action, parameters)

    def _usual_kind(self) -> str:
        return "hyperv" if self._plan.format == "vhdx" else "libvirt"

    @work(thread=True, exclusive=True)
    def _ask_script(self) -> None:
        try:
            kind, script = self._fetch_script(self._plan)
        except P2VError as error:
            kind, script = self._kind, f"There is no script: {error}\n{error.way_out}"
        self.app.call_from_thread(self._have_script, kind, script)

    def _fetch_script(self, plan: Plan) -> tuple[str, str]:
        if not self.draft.target.server:
            from p2v.script.make import make_plan_script, usual_kind

            kind = usual_kind(plan.format)
            return kind.value, make_plan_script(kind, plan)
        address = Address.parse(self.draft.target.server)
        with closing(RemoteConverter(address, find_credentials(address))) as converter:
            return converter.script(plan)

    def _have_script(self, kind: str, script: str) -> None:
        self._kind, self._script = kind, script
        if self.is_attached:
            tabs = self.query_one("#view", Tabs)
            name = f"{_SHELLS.get(kind, 'Shell')} script"
            tabs.words = (*tabs.words[:_SCRIPT], name, *tabs.words[_SCRIPT + 1 :])
            tabs.refresh(layout=True)
            self._show_view()

    @on(Tabs.Changed, "#view")
    def _show_view(self) -> None:
        lines = self._shown().splitlines()
        self.query_one("#text", Static).update("\n".join(map(printable, lines)))
        self.query_one("#shown").scroll_home(animate=False)

    def _shown(self) -> str:
        match self.query_one("#view", Tabs).index:
            case 0:
                return "\n".join(plan_lines(self.draft, self._plan))
            case 1:
                return (
                    "The same without this wizard:\n\n"
                    f"{self.draft.command()}\n\n"
                    "or, with the plan that ^W saves on the tab 'Plan file':\n\n"
                    f"{self.draft.replay(f'{self._plan.name}.toml')}\n"
                )
            case 2:
                return self._script
            case _:
                return planfile.dump(self._plan)

    @on(Pick.Changed, "#cutover")
    def _take_cutover(self, event: Pick.Changed) -> None:
        self.draft.wait = bool(event.pick.index)
        self._show_view()

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
        """Save what is shown as a file; on the summary that is the plan."""
        view = self.query_one("#view", Tabs).index
        text = planfile.dump(self._plan) if view == _SUMMARY else self._shown()
        script = "ps1" if self._kind == "hyperv" else "sh"
        what, ending = {
            _COMMAND: ("command line", "txt"),
            _SCRIPT: ("script", script),
        }.get(view, ("plan", "toml"))
        name = f"{Path.cwd() / self._plan.name}.{ending}"
        chosen = await self.app.push_screen_wait(Entry(f"Save the {what} as:", name))
        if not chosen:
            return
        try:
            Path(chosen).expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            self.say(f"{chosen} cannot be written: {error.strerror}.", error=True)
            return
        self.say(f"The {what} is in {chosen}.")

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
