# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks and partitions are copied, and what follows from that."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from agent.plan import partition_name
from agent.tui.draft import copied, in_use
from agent.tui.step import Step
from agent.tui.text import count, disk_line, partition_line
from agent.tui.widgets import Rows
from p2v.model.command import printable
from p2v.model.errors import UsageError
from p2v.model.machine import Disk, Partition
from p2v.model.units import format_size

_WIDE = 110
Row = tuple[Disk, Partition | None]


class DisksStep(Step):
    """A tree of disks and partitions to choose from."""

    name_shown = "Disks and partitions"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "choose", "Choose", key_display="space"),
        Binding("l", "live", "Live/offline"),
        Binding("ctrl+a", "all", "All disks", key_display="^A"),
    ]

    def body(self) -> ComposeResult:
        """Yield the tree, the totals and the consequences."""
        yield Rows(id="tree")
        yield Static("", id="total", classes="title", markup=False)
        with VerticalScroll(classes="pane", can_focus=True):
            yield Static("", id="effects", classes="text", markup=False)

    def on_mount(self) -> None:
        """Show the tree."""
        self._rows: list[Row] = []
        for disk in self.draft.found.disks:
            self._rows += [(disk, None), *((disk, part) for part in disk.partitions if part.number)]
        self._show()
        self.query_one("#tree", Rows).focus()

    def on_resize(self) -> None:
        """Use the room that there is."""
        if self.is_mounted and self.query("#tree"):
            self._show()

    def _show(self) -> None:
        width = 24 if self.size.width >= _WIDE else 8
        lines = []
        for disk, part in self._rows:
            chosen = disk.name in self.draft.disks
            if part is None:
                lines.append(disk_line(disk, chosen))
            else:
                chosen = chosen and partition_name(disk, part) not in self.draft.exclude
                lines.append(partition_line(disk, part, chosen, self.glyphs, width))
        self.query_one("#tree", Rows).show(lines)
        self._tell()

    def _tell(self) -> None:
        total, effects = self.query_one("#total", Static), self.query_one("#effects", Static)
        try:
            plan = self.draft.plan()
        except UsageError as error:
            total.update("Nothing is chosen." if not self.draft.disks else "")
            effects.update(printable(str(error)))
            return
        size = format_size(sum(disk.size for disk in plan.disks))
        todo = format_size(copied(plan, self.draft.found))
        mode = self._mode(plan.live)
        total.update(f"{count(len(plan.disks), 'disk')}, {size}, about {todo} to read; {mode}")
        effects.update(
            "\n".join(f"! {printable(warning)}" for warning in plan.warnings)
            or "Nothing of the chosen disks is lost."
        )

    def _mode(self, live: bool) -> str:
        if live:
            return "live: they are in use"
        used = any(in_use(d) for d in self.draft.found.disks if d.name in self.draft.disks)
        return "offline, but IN USE: unmount first" if used else "offline: they are at rest"

    def action_live(self) -> None:
        """Copy disks that are in use while they are, or not."""
        self.draft.live = not self.draft.live
        self._tell()

    @on(Rows.OptionSelected, "#tree")
    def action_choose(self) -> None:
        """Choose the current line, or leave it out."""
        at = self.query_one("#tree", Rows).highlighted
        if at is None:
            return
        disk, part = self._rows[at]
        if part is None:
            self.draft.disks ^= {disk.name}
        else:
            name = partition_name(disk, part)
            if disk.name in self.draft.disks:
                self.draft.exclude ^= {name}
            else:
                self.draft.disks.add(disk.name)
                self.draft.exclude.discard(name)
        self._show()

    def action_all(self) -> None:
        """Choose all disks, or none if all are chosen."""
        every = {disk.name for disk in self.draft.found.disks}
        self.draft.disks = set() if self.draft.disks == every else every
        self._show()

    def leave(self) -> bool:
        """Go on with a plan that can be made."""
        try:
            self.draft.plan()
        except UsageError as error:
            if not self.draft.disks:
                self.say("Choose at least one disk with the space bar.", error=True)
            else:
                self.fail(error)
            return False
        return True
