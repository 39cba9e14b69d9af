# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks and partitions are copied, and what follows from that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from agent.cli.progress import format_time
from agent.estimate import Speeds, estimate, link_rate, read_rate, to_read
from agent.plan import partition_name
from agent.stream.remote import Address
from agent.tui.step import Step
from agent.tui.text import count, disk_line, partition_line, table_head
from agent.tui.widgets import Pane, Rows
from p2v.model.command import printable
from p2v.model.errors import UsageError
from p2v.model.machine import Disk, Partition
from p2v.model.plan import Plan, Treatment
from p2v.model.units import format_size

_WIDE = 110
_MEASURED = 8
"""Disks that are measured; of more they are taken to be alike."""
Row = tuple[Disk, Partition | None]


class DisksStep(Step):
    """A tree of disks and partitions to choose from."""

    name_shown = "Disks and partitions"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "choose", "Choose", key_display="space"),
        Binding("l", "live", "Live/offline"),
        Binding("b", "every_block", "Every block"),
        Binding("ctrl+a", "all", "All disks", key_display="^A"),
    ]

    def body(self) -> ComposeResult:
        """Yield the tree, the totals and the consequences."""
        yield Static("", id="columns", markup=False)
        yield Rows(id="tree")
        yield Static("", id="total", classes="totals", markup=False)
        with Pane(classes="pane"):
            yield Static("", id="effects", classes="text", markup=False)

    def on_mount(self) -> None:
        """Show the tree."""
        self._rows: list[Row] = []
        for disk in self.draft.found.disks:
            self._rows += [(disk, None), *((disk, part) for part in disk.partitions if part.number)]
        self._show()
        self.query_one("#tree", Rows).focus()
        if self.wizard.measure:
            self._measure()

    def on_resize(self) -> None:
        """Use the room that there is."""
        if self.is_mounted and self.query("#tree"):
            self._show()

    def _show(self) -> None:
        width = 24 if self.size.width >= _WIDE else 8
        lines = [self._line(disk, part, width) for disk, part in self._rows]
        self.query_one("#columns", Static).update(table_head(width))
        self.query_one("#tree", Rows).show(lines)
        self._tell()

    def _line(self, disk: Disk, part: Partition | None, width: int) -> str:
        chosen, exclude = disk.name in self.draft.disks, self.draft.exclude
        if part is None:
            partly = any(partition_name(disk, each) in exclude for each in disk.partitions)
            return disk_line(disk, chosen, self.glyphs, width, partly=partly)
        chosen = chosen and partition_name(disk, part) not in exclude
        return partition_line(disk, part, chosen, self.glyphs, width)

    def _tell(self) -> None:
        total, effects = self.query_one("#total", Static), self.query_one("#effects", Static)
        if not self.draft.disks:
            total.update("Nothing is chosen.")
            effects.update("The space bar chooses the current disk or partition.")
            return
        try:
            plan = self.draft.plan()
        except UsageError as error:
            total.update("This cannot be planned.")
            effects.update(printable(str(error)))
            return
        size = format_size(sum(disk.size for disk in plan.disks))
        read = format_size(sum(to_read(plan).values()))
        lines = [f"{count(len(plan.disks), 'disk')}, {size}; {self._time(plan, read)}"]
        total.update("\n".join([*lines, self._mode(plan)]))
        effects.update("\n".join(map(printable, effect_lines(plan))))

    def _time(self, plan: Plan, read: str) -> str:
        draft = self.draft
        found = estimate(to_read(plan), Speeds(draft.speeds, draft.link))
        if found is None:
            return f"about {read} to read"
        rate = format_size(found.rate)
        time = format_time(max(1.0, found.seconds))
        return f"{read} to read: about {time} ({found.by}: {rate}/s)"

    def _mode(self, plan: Plan) -> str:
        used = [
            part.mount_point or partition_name(disk, part)
            for disk in self.draft.found.disks
            if disk.name in self.draft.disks
            for part in disk.partitions
            if part.writable
        ]
        places = ", ".join(used[:3]) + (f" and {len(used) - 3} more" if len(used) > 3 else "")
        if plan.live:
            return printable(f"Live, because {places} {_be(used)} in use: nothing has to stop.")
        if used:
            return printable(f"Offline, but {places} {_be(used)} IN USE: unmount, or press l.")
        return "Offline, because nothing on them is in use."

    @work(thread=True, exclusive=True)
    def _measure(self) -> None:
        """See how fast the chosen disks are; once for each, and a few of many."""
        draft = self.draft
        if draft.target.server and draft.link is None:
            draft.link = link_rate(Address.parse(draft.target.server).host)
        disks = [disk for disk in draft.found.disks if disk.name in draft.disks]
        for disk in disks[:_MEASURED]:
            if disk.name not in draft.speeds:
                draft.speeds[disk.name] = read_rate(disk.path, disk.size) or 0.0
        self.app.call_from_thread(self._measured)

    def _measured(self) -> None:
        if self.is_attached:
            self._tell()

    def action_every_block(self) -> None:
        """Copy free blocks too, or not."""
        self.draft.all_blocks = not self.draft.all_blocks
        self._tell()

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


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def effect_lines(plan: Plan) -> Iterator[str]:
    """Yield what follows from the choice, what may be lost first."""
    yield from (f"! {warning}" for warning in plan.warnings)
    parts = [part for disk in plan.disks for part in disk.partitions]
    swaps = [part.name for part in parts if part.treatment is Treatment.SWAP]
    if swaps:
        yield f"{', '.join(swaps)}: swap is not copied, it is made anew with the same UUID."
    whole = [part.name for part in parts if part.treatment is Treatment.COPY and part.content]
    if plan.all_blocks:
        yield "Every block is copied, free ones too: the images equal the disks bit for bit."
    elif whole:
        yield f"{', '.join(whole)}: every block is copied, as free ones cannot be told."
    if not plan.warnings:
        yield "Nothing that is in use on the chosen disks is left out."
