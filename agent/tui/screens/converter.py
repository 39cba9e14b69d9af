# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the images go: a converter, which is paired with, or a folder here."""

from __future__ import annotations

from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Label, Static

from agent.credentials import find_credentials, known_converters, pair_and_keep
from agent.job.launch import Target
from agent.stream.remote import Address, RemoteConverter
from agent.tui.step import Step
from agent.tui.widgets import Field, Parses, Pick, Rows
from p2v.model.errors import P2VError, UsageError
from p2v.model.pairing import Code

_WAYS = ("a converter on the network", "a folder on this machine")


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
                    placeholder="converter.example or 192.0.2.10:8443",
                )  # fmt: skip
            with Horizontal(classes="field"):
                yield Label("Pairing code", classes="label")
                yield Field(id="code", validators=[Parses(_parse_code)], placeholder="7QK-3M9-X4T")
            yield Static(
                "The converter prints a code with 'p2v pair'; it serves once. "
                "None is needed for a converter that this machine knows:",
                classes="text title",
            )
            yield Rows(id="known")
        with Vertical(id="here"), Horizontal(classes="field"):
            yield Label("Folder", classes="label")
            yield Field(target.folder, id="folder", validators=[Parses(parse_folder)])

    def on_mount(self) -> None:
        """Offer the converters that are known."""
        self._known = known_converters()
        self.query_one("#known", Rows).show(self._known or ["(none yet)"])
        self._show_way()

    @on(Pick.Changed, "#way")
    def _show_way(self) -> None:
        here = self.query_one("#way", Pick).index == 1
        self.query_one("#network").display = not here
        self.query_one("#here").display = here
        self.say("")

    @on(Rows.OptionSelected, "#known")
    def _take_known(self, event: Rows.OptionSelected) -> None:
        if self._known:
            self.query_one("#server", Input).value = self._known[event.option_index]
            self.say("Press ^N to go on; no code is needed.")

    @on(Input.Changed)
    def _explain(self, event: Input.Changed) -> None:
        result = event.validation_result
        wrong = result is not None and not result.is_valid and bool(event.value)
        self.say(result.failure_descriptions[0] if wrong and result else "")

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
            converter = RemoteConverter(address, find_credentials(address))
            try:
                converter.check()
            finally:
                converter.close()
        except P2VError as error:
            self.app.call_from_thread(self.fail, error)
            return
        self.app.call_from_thread(self._paired, address)

    def _paired(self, address: Address) -> None:
        self.draft.target = Target(server=str(address))
        if self.is_current:
            self.wizard.go(1)
