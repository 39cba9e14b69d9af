# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of a job, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from agent import tools
from agent.cli.progress import format_time
from agent.job.folder import Job
from agent.job.launch import Target, resume_job
from agent.job.state import JobState
from agent.tui.screens.question import Question
from agent.tui.step import Step
from p2v.model.command import printable
from p2v.model.errors import P2VError
from p2v.model.units import format_size

_READ_ERRORS = 20
LIVE_MEDIUM = Path("/run/live/medium")
"""Where live-boot mounts what it started from: there the system is ours to end."""
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
        Binding("ctrl+x", "app.leave", "Quit", key_display="^X", priority=True),
    ]

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job
        self._state = job.state()

    def body(self) -> ComposeResult:
        """Yield the verdict and its grounds."""
        with VerticalScroll(can_focus=True):
            text = "\n".join(printable(line) for line in result_lines(self._job))
            yield Static(text, id="text", classes="text", markup=False)

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
        """Offer to end the system only where it is the live one."""
        return (
            LIVE_MEDIUM.exists() if action == "power" else super().check_action(action, parameters)
        )

    @work
    async def action_power(self) -> None:
        """Ask whether to power off or start anew; ^X leaves to a shell."""
        word = await self.app.push_screen_wait(Question(_POWER, ("poweroff", "reboot")))
        if word:
            try:
                tools.run(["systemctl", word])
            except P2VError as error:
                self.fail(error)

    def action_again(self) -> None:
        """Start another migration."""
        self.wizard.start_over()


def result_lines(job: Job) -> Iterator[str]:
    """Yield the verdict of a job, its grounds, and what to do next."""
    state = job.state()
    if state is None or not state.over:
        yield "THE MIGRATION'S PROCESS DIED"
        yield ""
        if state is not None and state.migration:
            yield f"Migration {state.migration}: what was sent is kept, and can be resumed."
        yield "The end of its log:"
        yield from job.log_lines(12)
    elif state.failure is not None:
        yield from _failed(state)
    else:
        yield from _finished(state)


def _failed(state: JobState) -> Iterator[str]:
    failure = state.failure
    if failure is None:
        return
    yield "STOPPED" if failure.code == "stopped" else "NOT DONE"
    yield ""
    yield failure.message
    if failure.hint:
        yield f"What to do: {failure.hint}"
    if state.migration:
        yield ""
        yield f"Migration {state.migration}: what was sent is kept unless it was discarded."
        yield "r resumes it; it sends only what the converter does not have."


def _finished(state: JobState) -> Iterator[str]:
    bad = state.exit_code == _READ_ERRORS
    yield "DONE, WITH UNREADABLE SECTORS" if bad else "DONE"
    yield ""
    yield f"Migration {state.migration} took {format_time(state.elapsed_s)}."
    yield (
        f"{format_size(state.total)} of disks: {format_size(state.read)} read, "
        f"{format_size(state.wire)} sent, {format_size(state.zero + state.same)} skipped."
    )
    if state.freeze_s is not None:
        yield f"Its file systems were frozen for {state.freeze_s * 1000:.0f} ms at the end."
    yield "Every chunk was verified on the converter's disk after it was written."
    yield ""
    yield "Images:"
    for image in state.images:
        yield f"  {image}"
    if state.notes:
        yield ""
        yield "To know:"
        for note in state.notes:
            yield f"  {note}"
    yield ""
    yield (
        "Next: attach the images to a virtual machine. Do not start the old server and the new "
        "machine on one network at the same time: they have the same name and addresses."
    )
