# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: one screen after another over one draft, then a job that is watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.scrollbar import ScrollBar

from agent.inventory.collect import collect
from agent.job.folder import Job
from agent.tui.draft import Draft
from agent.tui.screens.converter import ConverterStep
from agent.tui.screens.disks import DisksStep
from agent.tui.screens.host import HostStep
from agent.tui.screens.machine import LOAD_WINDOW_S, MachineStep
from agent.tui.screens.progress import ProgressStep
from agent.tui.screens.result import ResultStep
from agent.tui.screens.summary import SummaryStep
from agent.tui.screens.vm import VmStep
from agent.tui.step import Step
from agent.tui.terminal import Terminal, glyphs
from agent.tui.widgets import PlainScrollBar
from p2v.model.machine import Machine

STEPS: tuple[type[Step], ...] = (
    ConverterStep,
    MachineStep,
    DisksStep,
    VmStep,
    HostStep,
    SummaryStep,
)
_READ_S = 0.1


class Wizard(App[int], inherit_bindings=False):
    """The wizard; its result is the exit code."""

    CSS_PATH = "wizard.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "leave", show=False),
        # By priority, which is heeded at once: what is typed right after Tab would otherwise still
        # reach the field before it, and be lost.
        Binding("tab", "app.tab(1)", show=False, priority=True),
        Binding("shift+tab", "app.tab(-1)", show=False, priority=True),
    ]

    def __init__(
        self,
        terminal: Terminal,
        draft: Draft | None = None,
        job: Job | None = None,
        disks: Sequence[str] = (),
    ) -> None:
        super().__init__(ansi_color=True)
        self.terminal = terminal
        self.glyphs = glyphs(terminal)
        self.draft = draft or Draft()
        self.job = job
        self.listen = self.measure = True
        """Whether to look for converters, and at the speed of disks; tests have neither."""
        self.look: Callable[[], Machine] = partial(collect, tuple(disks), LOAD_WINDOW_S)
        self._at = 0
        if terminal.ascii:
            ScrollBar.renderer = PlainScrollBar

    def on_mount(self) -> None:
        """Show the first screen, or the job that is to be watched."""
        self.theme = "ansi-dark"
        self.push_screen(STEPS[0]() if self.job is None else ProgressStep(self.job))

    def heading(self, step: Step) -> str:
        """Return the title line of a screen."""
        kind = type(step)
        where = f"{STEPS.index(kind) + 1}/{len(STEPS)}  " if kind in STEPS else ""
        return f"p2v  {where}{step.name_shown}"

    def go(self, by: int) -> None:
        """Show the next screen or the one before; before the first there is none."""
        at = self._at + by
        if 0 <= at < len(STEPS) and STEPS[at] is HostStep and not self.draft.target.server:
            at += by  # a folder has no hosts
        if 0 <= at < len(STEPS):
            self._at = at
            self.switch_screen(STEPS[at]())

    def watch_job(self, job: Job) -> None:
        """Watch a job that runs."""
        self.job = job
        self.switch_screen(ProgressStep(job))

    def show_result(self, job: Job) -> None:
        """Show what came of a job."""
        self.switch_screen(ResultStep(job))

    def start_over(self) -> None:
        """Go back to the first screen; what was entered is still there."""
        self.job = None
        self._at = 0
        self.switch_screen(STEPS[0]())

    async def action_tab(self, by: int) -> None:
        """Go to the next field or the one before, as it is after what was typed ahead of Tab."""
        # By priority, Tab is quicker than the current field, which may be about to show others.
        # Keys behind Tab wait meanwhile; for a field that is going away they do not wait long.
        read = asyncio.Event()
        if (self.focused or self.screen).call_later(read.set):
            with suppress(TimeoutError):
                await asyncio.wait_for(read.wait(), _READ_S)
        if by > 0:
            self.screen.focus_next()
        else:
            self.screen.focus_previous()

    def action_leave(self) -> None:
        """Leave; a job goes on."""
        self.exit(0)
