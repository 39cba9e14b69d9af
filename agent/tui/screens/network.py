# SPDX-License-Identifier: GPL-3.0-or-later
"""The live image's own network: DHCP or an address, on an interface or a VLAN of it."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_interface

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Label, Static

from agent.appliance import network
from agent.appliance.settings import Settings
from agent.inventory.nics import read_nics
from agent.tui.step import Step
from agent.tui.widgets import Field, Parses, Pick
from p2v.model.command import printable
from p2v.model.errors import P2VError, UsageError
from p2v.model.machine import Nic, NicKind

_WAYS = ("automatic (DHCP)", "an address given here")
_PATIENCE_S = 20.0
"""How long to wait for an address; DHCP on a port that a switch has just seen takes 15."""
CARDS = (NicKind.PHYSICAL, NicKind.BOND)


def parse_own(text: str) -> str:
    """Return an address with the length of its network, ``192.0.2.20/24``.

    Raises:
        UsageError: it is none.
    """
    try:
        if "/" not in text:
            raise ValueError
        return str(ip_interface(text.strip()))
    except ValueError:
        raise UsageError(problem="address: like 192.0.2.20/24, with the network's length") from None


def parse_other(text: str) -> str:
    """Return the address of another computer, or "" for none.

    Raises:
        UsageError: it is none.
    """
    try:
        return str(ip_address(text.strip())) if text.strip() else ""
    except ValueError:
        raise UsageError(problem=f"'{text}' is no address like 192.0.2.1") from None


def parse_vlan(text: str) -> int:
    """Return a VLAN's number, 0 for none.

    Raises:
        UsageError: it is none.
    """
    if not text.strip():
        return 0
    if not text.strip().isdecimal() or not 1 <= int(text) <= 4094:
        raise UsageError(problem="VLAN: a number from 1 to 4094, or empty for none")
    return int(text)


def network_line() -> str:
    """Return this machine's addresses in a sentence."""
    try:
        nics = read_nics()
    except P2VError as error:
        return str(error)
    found = [f"{nic.name} {address}" for nic in nics for address in nic.addresses]
    return printable(f"{', '.join(found)}.") if found else "no address yet."


class NetworkStep(Step):
    """Fields for one interface; what is applied counts until the live system ends."""

    name_shown = "Network of this live system"

    def body(self) -> ComposeResult:
        """Yield the fields; the interfaces are filled in when they are known."""
        with Horizontal(classes="field"):
            yield Label("Interface", classes="label")
            yield Pick(("all wired interfaces",), id="card")
        with Horizontal(classes="field"):
            yield Label("Addresses", classes="label")
            yield Pick(_WAYS, id="way")
        with Vertical(id="static"):
            yield from self._field("Address", "own", parse_own, "(like 192.0.2.20/24)")
            yield from self._field("Gateway", "gateway", parse_other, "(like 192.0.2.1, or empty)")
            yield from self._field("Name server", "dns", parse_other, "(like 192.0.2.1, or empty)")
        yield from self._field("VLAN", "vlan", parse_vlan, "(empty: none)")
        yield Static("Interfaces", classes="title")
        yield Static("", id="cards", classes="text", markup=False)

    def _field(self, label: str, name: str, parse: object, hint: str) -> ComposeResult:
        with Horizontal(classes="field"):
            yield Label(label, classes="label")
            yield Field(id=name, validators=[Parses(parse)], placeholder=hint)  # type: ignore[arg-type]

    def on_mount(self) -> None:
        """Look at the interfaces."""
        self._cards: tuple[Nic, ...] = ()
        self.watch(self.query_one("#way", Pick), "index", self._show_way)  # at once, before Tab
        self._look()

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        try:
            nics = read_nics()
        except P2VError as error:
            self.app.call_from_thread(self.fail, error)
            return
        self.app.call_from_thread(self._found, nics)

    def _found(self, nics: tuple[Nic, ...]) -> None:
        self._cards = tuple(nic for nic in nics if nic.kind in CARDS)
        pick = self.query_one("#card", Pick)
        pick.words = ("all wired interfaces", *(nic.name for nic in self._cards))
        pick.refresh(layout=True)
        self.query_one("#cards", Static).update("\n".join(map(_card_line, nics)) or "(none)")

    def _show_way(self) -> None:
        self.query_one("#static").display = self._static
        self.say("")

    @property
    def _static(self) -> bool:
        return self.query_one("#way", Pick).index == 1

    @on(Input.Changed)
    def _explain(self, event: Input.Changed) -> None:
        result = event.validation_result
        wrong = result is not None and not result.is_valid and bool(event.value)
        self.say(result.failure_descriptions[0] if wrong and result else "", error=wrong)

    @on(Input.Submitted)
    def _go_on(self) -> None:
        self.action_next()

    def leave(self) -> bool:
        """Apply what was entered; the screen closes when an address is there."""
        try:
            settings = self._settings()
        except UsageError as error:
            self.fail(error)
            return False
        self.say("Setting up the network ...")
        self._apply(settings)
        return False

    def _settings(self) -> Settings:
        card = self.query_one("#card", Pick).index
        name = self._cards[card - 1].name if card else ""
        vlan = parse_vlan(self.query_one("#vlan", Input).value)
        if not self._static:
            return Settings(interface=name, ip="dhcp", vlan=vlan)
        if not name and len(self._cards) != 1:
            raise UsageError(problem="choose the interface that gets this address")
        own = parse_own(self.query_one("#own", Input).value)
        gateway = parse_other(self.query_one("#gateway", Input).value)
        dns = parse_other(self.query_one("#dns", Input).value)
        if dns and not gateway:
            raise UsageError(problem="a name server needs the gateway too")
        others = [each for each in (gateway, dns) if each]
        return Settings(
            interface=name or self._cards[0].name, ip=",".join([own, *others]), vlan=vlan
        )

    @work(thread=True, exclusive=True, group="apply")
    def _apply(self, settings: Settings) -> None:
        try:
            network.replace(settings)
            line = _await_address(settings)
        except P2VError as error:
            self.app.call_from_thread(self.fail, error)
            return
        self.app.call_from_thread(self._applied, line)

    def _applied(self, line: str) -> None:
        if line:
            self.dismiss()
        else:
            self.say(
                f"There is no address after {_PATIENCE_S:.0f} s: is the cable in, the VLAN right, "
                "and does a DHCP server answer? An address can be given by hand.",
                error=True,
            )
            self._look()

    def action_back(self) -> None:
        """Change nothing."""
        self.dismiss()


def _await_address(settings: Settings) -> str:
    """Return where the new address is, "" if there is none after a while."""
    wanted = f"vlan{settings.vlan}" if settings.vlan else settings.interface
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        for nic in read_nics():
            if nic.addresses and wanted in ("", nic.name):
                return f"{nic.name} {nic.addresses[0]}"
        time.sleep(0.5)
    return ""


def _card_line(nic: Nic) -> str:
    link = f"{nic.speed} Mbit/s" if nic.speed else "link" if nic.up else "no link"
    where = " ".join(nic.addresses) or "no address"
    return printable(f"{nic.name:<12} {nic.mac:<17}  {link:<12} {where}")
