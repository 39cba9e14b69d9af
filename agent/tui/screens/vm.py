# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine: its name, size, disk format and networks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Label, Static

from agent.credentials import find_credentials
from agent.firmware import generation
from agent.stream.remote import Address, RemoteConverter
from agent.tui.step import Step
from agent.tui.widgets import Field, NetworkField, Parses, Pick
from agent.vm import parse_cpus, parse_memory, parse_name, parse_network
from p2v.model.command import printable
from p2v.model.errors import P2VError, UsageError
from p2v.model.machine import Nic
from p2v.model.plan import ImageFormat
from p2v.model.units import GiB
from p2v.model.vm import SecureBoot, VmNic, VmSettings

FORMATS = (
    ("vhdx (Hyper-V)", ImageFormat.VHDX, False),
    ("qcow2 (KVM)", ImageFormat.QCOW2, False),
    ("qcow2, compressed", ImageFormat.QCOW2, True),
    ("raw", ImageFormat.RAW, False),
)
_CONVERT = ("make it start as a virtual machine", "leave it as it is")
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
        chosen = [(image, small) for _, image, small in FORMATS].index(
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
                yield Pick([name for name, _, _ in FORMATS], chosen, id="format")
            if draft.target.server:  # a folder here has nobody who converts
                with Horizontal(classes="field"):
                    yield Label("Guest", classes="label")
                    yield Pick(_CONVERT, int(not draft.convert), id="convert")
            yield from self._firmware(vm)
            yield Static(
                "Networks on the host, as LAN or LAN:20 with a VLAN; empty: not connected",
                classes="title",
            )
            names = Static("", id="names", classes="text", markup=False)
            names.display = False
            yield names
            yield from self._nics(vm.nics)

    def _firmware(self, vm: VmSettings) -> Iterator[Horizontal | Static]:
        """Yield the choice where there is one, else why there is none."""
        kinds = self.draft.kinds()
        words = [f"{kind.upper()}, generation {generation(kind)} on Hyper-V" for kind in kinds]
        if len(kinds) > 1:
            label = Label("Firmware", classes="label")
            pick = Pick(words, kinds.index(vm.firmware), id="firmware")
            yield Horizontal(label, pick, classes="field")
            return
        secure = "" if vm.secure_boot is SecureBoot.OFF else ", Secure Boot on"
        yield Static(f"{words[0]}{secure}: the disks start no other way.", classes="text help")

    def _nics(self, nics: tuple[VmNic, ...]) -> Iterator[Horizontal | Static]:
        if not nics:
            yield Static("(this machine has no network card)")
        found = {nic.name: nic for nic in self.draft.found.nics}
        for number, nic in enumerate(nics):
            facts = found.get(nic.name)
            speed = _link(facts) if facts is not None else ""
            addresses = " ".join(facts.addresses) if facts is not None else ""
            yield Static(printable(f"{nic.name}  {nic.mac}  {speed}  {addresses}").rstrip())
            label = Label("  network", classes="label")
            parse = [Parses(parse_network)]
            text = self.draft.networks.get(nic.name, "")
            field = NetworkField(text, id=f"nic{number}", name=nic.name, validators=parse)
            yield Horizontal(label, field, classes="field")

    def on_mount(self) -> None:
        """Ask the converter which networks its hosts have."""
        self._networks: tuple[str, ...] = ()
        self._first = {field.id: field.value for field in self.query(Input)}
        if self.draft.target.server:
            self._ask()

    @work(thread=True, group="networks")
    def _ask(self) -> None:
        address = Address.parse(self.draft.target.server)
        try:
            with closing(RemoteConverter(address, find_credentials(address))) as converter:
                names = tuple(converter.networks())
        except P2VError:
            return  # the next screen asks again, and says what is wrong
        self.app.call_from_thread(self._know, names)

    def _know(self, names: tuple[str, ...]) -> None:
        self._networks = names
        if names and self.is_attached:
            text = f"The hosts have: {', '.join(names)}. Down and up take one."
            line = self.query_one("#names", Static)
            line.update(printable(text))
            line.display = True
            for field in self.query(NetworkField):
                field.known = names

    @on(Input.Changed)
    def _keep(self, event: Input.Changed) -> None:
        result, value = event.validation_result, event.value
        if result is not None and not result.is_valid:
            self.say(result.failure_descriptions[0], error=True)
            return
        self.say("")
        if self._first.pop(event.input.id, None) == value:
            return  # a field tells of what it was filled with; rounded, that is no choice
        match event.input.id:
            case "name":
                self.draft.name = parse_name(value)
            case "cpus":
                self.draft.cpus = parse_cpus(value)
            case "memory":
                self.draft.memory = parse_memory(value)
            case _:
                self.draft.networks[event.input.name or ""] = value.strip()
                network, _ = parse_network(value)
                if network and self._networks and network not in self._networks:
                    self.say(f"No host has a network '{network}': none could take the machine.")

    @on(Pick.Changed, "#format")
    def _take_format(self, event: Pick.Changed) -> None:
        _, self.draft.format, self.draft.compress = FORMATS[event.pick.index]

    @on(Pick.Changed, "#firmware")
    def _take_firmware(self, event: Pick.Changed) -> None:
        self.draft.firmware = self.draft.kinds()[event.pick.index]

    @on(Pick.Changed, "#convert")
    def _take_convert(self, event: Pick.Changed) -> None:
        self.draft.convert = event.pick.index == 0

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


def _link(nic: Nic) -> str:
    if nic.speed:
        return f"{nic.speed} Mbit/s"
    return "up" if nic.up else "down"
