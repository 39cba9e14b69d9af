# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of a job, and what to do next."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static
from textual.worker import get_current_worker

from agent import tools
from agent.appliance.image import LIVE_MEDIUM
from agent.cli.progress import format_time
from agent.job.folder import Job
from agent.job.launch import Target, resume_job
from agent.job.state import JobState
from agent.tui.evidence import Evidence, evidence_lines, find_evidence
from agent.tui.screens.question import Question
from agent.tui.step import Step
from agent.tui.widgets import Pane
from p2v.model.command import printable
from p2v.model.errors import P2VError
from p2v.model.units import format_size

_READ_ERRORS = 20
_AGAIN_S = 5.0
"""How often the converter is asked while it makes the machine."""
_POWER = "End the live system? Type poweroff or reboot. This machine's disks were not changed."


class ResultStep(Step):
    """The verdict first, then the evidence, then the next step."""

    name_shown = "Result"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "none", show=False),
        Binding("escape,ctrl+b", "none", show=False),
        Binding("r", "resume", "Resume"),
        Binding("n", "again", "New migration"),
        Binding("o", "power", "Power off/reboot"),
        Binding("s", "shell", "Shell"),
        Binding("ctrl+x", "app.leave", "Quit", key_display="^X", priority=True),
    ]

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job
        self._state = job.state()

    def body(self) -> ComposeResult:
        """Yield the verdict and its grounds."""
        with Pane():
            yield Static("", id="text", classes="text", markup=False)

    def on_mount(self) -> None:
        """Show the verdict, and look for more evidence of a good one."""
        self._show(None)
        if self._state is not None and self._state.phase == "finished":
            self.say("Asking what became of the guest ...")
            self._look()

    def _show(self, found: Evidence | None) -> None:
        text = "\n".join(printable(line) for line in result_lines(self._job, found))
        self.query_one("#text", Static).update(text)

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        state, worker = self._state, get_current_worker()
        while state is not None and not worker.is_cancelled:
            found = find_evidence(state.target, state.migration, state.images)
            self.app.call_from_thread(self._have, found)
            if found.complete:
                return
            time.sleep(_AGAIN_S)

    def _have(self, found: Evidence) -> None:
        if self.is_attached:
            self.say("")
            self._show(found)

    @property
    def _resumable(self) -> bool:
        state = self._state
        return state is not None and bool(state.migration) and state.phase != "finished"

    def action_none(self) -> None:
        """Do nothing: the job is over."""

    def action_resume(self) -> None:
        """Go on with what was interrupted."""
        if not self._resumable or self._state is None:
            self.say("There is nothing to resume.")
            return
        target = self._state.target
        where = Target(server=target) if target.startswith("https://") else Target(folder=target)
        try:
            self.wizard.watch_job(resume_job(self._state.migration, where))
        except P2VError as error:
            self.fail(error)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done here."""
        if action in ("power", "shell"):
            return LIVE_MEDIUM.exists()
        if action == "resume":
            return self._resumable
        return super().check_action(action, parameters)

    @work
    async def action_power(self) -> None:
        """Ask whether to power off or start anew."""
        word = await self.app.push_screen_wait(Question(_POWER, ("poweroff", "reboot")))
        if word:
            self.say("Ending this system ...")
            self._end(word)

    @work(thread=True, exclusive=True)
    def _end(self, word: str) -> None:
        try:
            tools.run(["systemctl", word])
        except P2VError as error:
            self.app.call_from_thread(self.fail, error)

    def action_shell(self) -> None:
        """Give a shell; the wizard comes back when it ends."""
        with self.app.suspend():
            print("A shell; 'exit' goes back to the wizard.", flush=True)
            subprocess.run([os.environ.get("SHELL", "/bin/sh"), "-l"], check=False)

    def action_again(self) -> None:
        """Start another migration."""
        self.wizard.start_over()


def result_lines(job: Job, found: Evidence | None = None) -> Iterator[str]:
    """Yield the verdict of a job, its grounds, and what to do next."""
    state = job.state()
    if state is None or not state.over:
        yield "THE MIGRATION'S PROCESS DIED"
        yield ""
        if state is not None and state.migration:
            yield f"Migration {state.migration}: what was sent is kept."
            yield "What to do: r resumes it; it sends only what the converter does not have."
            yield ""
        yield "The end of its log:"
        yield from job.log_lines(12)
    elif state.failure is not None:
        yield from _failed(state)
    else:
        yield from _finished(state, found)


def _failed(state: JobState) -> Iterator[str]:
    failure = state.failure
    if failure is None:
        return
    yield "STOPPED" if failure.code == "stopped" else "NOT DONE"
    yield ""
    yield failure.message
    if failure.hint:
        yield f"What to do: {failure.hint}"
    yield "This machine's disks were not changed."
    if state.migration and state.discarded:
        yield ""
        yield f"Migration {state.migration}: the converter has deleted what it had."
    elif state.migration:
        yield ""
        yield f"Migration {state.migration}: what was sent is kept."
        yield "r resumes it; it sends only what the converter does not have."


def _finished(state: JobState, found: Evidence | None) -> Iterator[str]:
    bad = state.exit_code == _READ_ERRORS
    short = found.shortfall if found is not None else ""
    yield "DONE" + ", WITH UNREADABLE SECTORS" * bad + (f", BUT {short}" if short else "")
    yield ""
    for note in state.notes if bad else ():
        yield f"! {note}"
    yield (
        f"{format_size(state.total)} of disks in {format_time(state.elapsed_s)}: "
        f"{format_size(state.read)} read, {format_size(state.wire)} sent, "
        f"{format_size(state.zero + state.same)} skipped."
    )
    yield "Verified: every chunk was read back on the converter's disk and compared."
    if state.freeze_s is not None:
        yield f"Freeze: the file systems were frozen for {state.freeze_s * 1000:.0f} ms."
    if found is not None:
        yield from evidence_lines(found)
    yield ""
    yield f"Images of migration {state.migration}:"
    for image in state.images:
        yield f"  {image}"
    for note in () if bad else state.notes:
        yield f"To know: {note}"
    yield ""
    yield from _next_steps(found)


def _next_steps(found: Evidence | None) -> Iterator[str]:
    state = found.machine.get("state") if found is not None else ""
    if state == "made":
        yield "Next: look at the machine on its host before the old server is switched off."
    else:
        yield "Next: make a virtual machine of the images; 'p2v hosts deploy' and 'p2v script' do."
    yield (
        "Never run the old server and the new machine on one network at the same time: they have "
        "the same name and addresses."
    )
