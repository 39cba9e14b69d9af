# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the images go: a converter, which is paired with, or a folder here."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Label, Static
from textual.worker import get_current_worker

from agent.appliance.image import LIVE_MEDIUM
from agent.credentials import find_credentials, known_converters, pair_and_keep
from agent.discovery import Discovery, Found
from agent.job.launch import Target
from agent.stream.remote import Address, RemoteConverter
from agent.tui.screens.network import NetworkStep, network_line
from agent.tui.step import Step
from agent.tui.widgets import Field, Parses, Pick, Rows
from p2v.model.command import printable
from p2v.model.errors import P2VError, UsageError
from p2v.model.pairing import Code

_WAYS = ("a converter on the network", "a folder on this machine")
_PAIRED = "this machine is paired with it"
_HEARD = "found on this network"
_HELP = (
    "The converter prints a code with 'p2v pair'; it serves once. A converter that this machine "
    "is paired with needs none."
)


def parse_folder(text: str) -> Path:
    """Return the folder that `text` names.

    Raises:
        UsageError: there is none.
    """
    path = Path(text).expanduser()
    if not text or not path.is_dir():
        raise UsageError(problem=f"'{text}' is no folder here; make or mount it first")
    return path.resolve()


def _parse_code(text: str) -> None:
    if text:
        Code.parse(text)


class ConverterStep(Step):
    """Asks for the converter's address and a pairing code, and pairs."""

    name_shown = "Where do the images go?"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+t", "network", "Network set-up", key_display="^T")
    ]

    def body(self) -> ComposeResult:
        """Yield the fields of both ways; one of them is hidden."""
        target = self.draft.target
        with Horizontal(classes="field"):
            yield Label("Images go to", classes="label")
            yield Pick(_WAYS, int(bool(target.folder)), id="way")
        with Vertical(id="network"):
            with Horizontal(classes="field"):
                yield Label("Address", classes="label")
                yield Field(
                    target.server, id="server", validators=[Parses(Address.parse)],
                    placeholder="(like converter.example or 192.0.2.10:8443)",
                )  # fmt: skip
            with Horizontal(classes="field"):
                yield Label("Pairing code", classes="label")
                yield Field(
                    id="code", validators=[Parses(_parse_code)], placeholder="(like 7QK-3M9-X4T)"
                )
            yield Static(_HELP, classes="text help")
            own = Static("", id="own", classes="text", markup=False)
            own.display = LIVE_MEDIUM.exists()
            yield own
            yield Static("", id="heading", classes="title")
            yield Rows(id="known")
        with Vertical(id="here"):
            with Horizontal(classes="field"):
                yield Label("Folder", classes="label")
                yield Field(
                    target.folder, id="folder", validators=[Parses(parse_folder)],
                    placeholder="(like /mnt/backup/images)",
                )  # fmt: skip
            yield Static(
                "It must exist, with room for the images, and not on a disk that is copied.",
                classes="text help",
            )

    def on_mount(self) -> None:
        """Offer the converters that are known, and listen for others."""
        self._known: dict[str, str] = dict.fromkeys(known_converters(), _PAIRED)
        self._show_known()
        self.watch(self.query_one("#way", Pick), "index", self._show_way)
        if self.wizard.listen:
            self._listen()
        if LIVE_MEDIUM.exists():
            self._look_at_network()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to set up the network only where it is ours."""
        if action == "network":
            return LIVE_MEDIUM.exists()
        if action == "back":
            return False
        return super().check_action(action, parameters)

    def action_network(self) -> None:
        """Set up this system's network."""
        self.app.push_screen(NetworkStep(), self._came_back)

    def _came_back(self, _: None) -> None:
        self._look_at_network()

    @work(thread=True, group="own")
    def _look_at_network(self) -> None:
        text = f"This machine's network: {network_line()} ^T changes it."
        self.app.call_from_thread(self.query_one("#own", Static).update, text)

    @work(thread=True, group="listen")
    def _listen(self) -> None:
        """Listen as long as this screen is there."""
        worker = get_current_worker()
        discovery = Discovery(partial(self.app.call_from_thread, self._heard))
        while not (worker.is_cancelled or discovery.closed.wait(0.2)):
            pass
        discovery.close()

    def _heard(self, found: Found) -> None:
        address = str(found.address)
        paired = f", {_PAIRED}" if self._known.get(address, "").endswith(_PAIRED) else ""
        self._known[address] = f"{found.name}, {_HEARD}{paired}"
        if self.is_attached:
            self._show_known()

    def _show_known(self) -> None:
        lines = [printable(f"{address:<30}  {about}") for address, about in self._known.items()]
        heading = (
            "Converters found, or known here; Enter takes one:"
            if lines
            else "No converter is known here, and none was found yet on this network."
        )
        if not lines and self.wizard.listen:
            heading = "No converter has announced itself yet; type its address above."
        self.query_one("#heading", Static).update(heading)
        rows = self.query_one("#known", Rows)
        rows.display = bool(lines)
        rows.show(lines)

    def _show_way(self) -> None:
        here = self.query_one("#way", Pick).index == 1
        self.query_one("#network").display = not here
        self.query_one("#here").display = here
        self.say("")

    @on(Rows.OptionSelected, "#known")
    def _take_known(self, event: Rows.OptionSelected) -> None:
        address, about = list(self._known.items())[event.option_index]
        self.query_one("#server", Input).value = address
        if about.endswith(_PAIRED):
            self.say("Press ^N to go on; no code is needed.")
        else:
            self.query_one("#code", Input).focus()
            self.say("Type the code that 'p2v pair' prints there, then press ^N.")

    @on(Input.Changed)
    def _explain(self, event: Input.Changed) -> None:
        result = event.validation_result
        wrong = result is not None and not result.is_valid and bool(event.value)
        self.say(result.failure_descriptions[0] if wrong and result else "", error=wrong)

    @on(Input.Submitted)
    def _go_on(self) -> None:
        self.action_next()

    def leave(self) -> bool:
        """Check what was entered; pairing goes on by itself when it is done."""
        try:
            if self.query_one("#way", Pick).index == 1:
                folder = parse_folder(self.query_one("#folder", Input).value)
                self.draft.target = Target(folder=str(folder))
                return True
            address = Address.parse(self.query_one("#server", Input).value.strip())
            text = self.query_one("#code", Input).value.strip()
            code = Code.parse(text) if text else None
        except UsageError as error:
            self.fail(error)
            return False
        self.say(f"Asking {address} ...")
        self._pair(address, code)
        return False

    @work(thread=True, exclusive=True)
    def _pair(self, address: Address, code: Code | None) -> None:
        try:
            if code is not None:
                pair_and_keep(address, code)
            with closing(RemoteConverter(address, find_credentials(address))) as converter:
                converter.check()
        except P2VError as error:
            self.app.call_from_thread(self.fail, error)
            return
        self.app.call_from_thread(self._paired, address)

    def _paired(self, address: Address) -> None:
        self.draft.target = Target(server=str(address))
        if self.is_current:
            self.wizard.go(1)
