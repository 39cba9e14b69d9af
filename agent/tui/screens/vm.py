# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine: its name, size, disk format and networks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Label, Static

from agent.tui.draft import parse_cpus, parse_memory, parse_name
from agent.tui.step import Step
from agent.tui.widgets import Field, Parses, Pick
from p2v.model.command import printable
from p2v.model.errors import UsageError
from p2v.model.machine import FirmwareKind
from p2v.model.plan import ImageFormat
from p2v.model.units import GiB
from p2v.model.vm import VmNic

_FORMATS = (
    ("vhdx (Hyper-V)", ImageFormat.VHDX, False),
    ("qcow2 (KVM)", ImageFormat.QCOW2, False),
    ("qcow2, compressed", ImageFormat.QCOW2, True),
    ("raw", ImageFormat.RAW, False),
)
_BLINK_S = 5


class VmStep(Step):
    """Fields that are filled in already with what the machine has."""

    name_shown = "Virtual machine"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+l", "blink", "Blink a card", key_display="^L")
    ]

    def body(self) -> ComposeResult:
        """Yield a line a field."""
        plan, draft = self.draft.plan(), self.draft
        vm = plan.vm
        assert vm is not None  # noqa: S101 - make_plan always gives one
        chosen = [(image, small) for _, image, small in _FORMATS].index(
            (draft.format, draft.compress)
        )
        with VerticalScroll(can_focus=False):
            with Horizontal(classes="field"):
                yield Label("Name", classes="label")
                yield Field(plan.name, id="name", validators=[Parses(parse_name)])
            with Horizontal(classes="field"):
                yield Label("Processors", classes="label")
                yield Field(str(vm.cpus), id="cpus", validators=[Parses(parse_cpus)])
            with Horizontal(classes="field"):
                yield Label("Memory in GiB", classes="label")
                memory = f"{vm.memory / GiB:.1f}".removesuffix(".0")
                yield Field(memory, id="memory", validators=[Parses(parse_memory)])
            with Horizontal(classes="field"):
                yield Label("Disk format", classes="label")
                yield Pick([name for name, _, _ in _FORMATS], chosen, id="format")
            generation = 1 if vm.firmware is FirmwareKind.BIOS else 2
            yield Static(
                f"Firmware: {vm.firmware.upper()}, as the machine has it "
                f"(Hyper-V: generation {generation}).",
                classes="title",
            )
            yield Static("Networks on the host, by name; empty: not connected", classes="title")
            yield from self._nics(vm.nics)

    def _nics(self, nics: tuple[VmNic, ...]) -> Iterator[Horizontal | Static]:
        if not nics:
            yield Static("(this machine has no network card)")
        for number, nic in enumerate(nics):
            addresses = next((n.addresses for n in self.draft.found.nics if n.name == nic.name), ())
            yield Static(printable(f"{nic.name}  {nic.mac}  {' '.join(addresses)}"))
            label = Label("  network", classes="label")
            field = Field(nic.network, id=f"nic{number}", name=nic.name)
            yield Horizontal(label, field, classes="field")

    @on(Input.Changed)
    def _keep(self, event: Input.Changed) -> None:
        result, value = event.validation_result, event.value
        if result is not None and not result.is_valid:
            self.say(result.failure_descriptions[0], error=True)
            return
        self.say("")
        match event.input.id:
            case "name":
                self.draft.name = parse_name(value)
            case "cpus":
                self.draft.cpus = parse_cpus(value)
            case "memory":
                self.draft.memory = parse_memory(value)
            case _:
                self.draft.networks[event.input.name or ""] = value.strip()

    @on(Pick.Changed, "#format")
    def _take_format(self, event: Pick.Changed) -> None:
        _, self.draft.format, self.draft.compress = _FORMATS[event.pick.index]

    @on(Input.Submitted)
    def _go_on(self) -> None:
        self.action_next()

    def action_blink(self) -> None:
        """Blink the LED of the network card whose field is current."""
        focused = self.focused
        name = focused.name if isinstance(focused, Input) and focused.name else ""
        if not name:
            self.say("Go to the network of a card first; its LED blinks then.")
            return
        self.say(f"{name} blinks for {_BLINK_S} seconds.")
        self._blink(name)

    @work(thread=True, exclusive=True)
    def _blink(self, name: str) -> None:
        command = ["ethtool", "--identify", name, str(_BLINK_S)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_BLINK_S + 5, check=False)
            failed = done.returncode != 0
        except (OSError, subprocess.TimeoutExpired):
            failed = True
        if failed:
            self.app.call_from_thread(self.say, f"The driver of {name} cannot blink its LED.")

    def leave(self) -> bool:
        """Go on when all fields are valid and the plan can be made."""
        for field in self.query(Input):
            result = field.validate(field.value)
            if result is not None and not result.is_valid:
                field.focus()
                self.say(result.failure_descriptions[0], error=True)
                return False
        try:
            self.draft.plan()
        except UsageError as error:
            self.fail(error)
            return False
        return True
