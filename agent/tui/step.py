# SPDX-License-Identifier: GPL-3.0-or-later
"""What all screens of the wizard share: a title, a line that answers, keys, and the draft."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widgets import Footer, Static

from agent.tui.draft import Draft
from agent.tui.terminal import Glyphs
from p2v.model.command import printable
from p2v.model.errors import P2VError

if TYPE_CHECKING:
    from agent.tui.app import Wizard


class Step(Screen[None]):
    """A screen. Subclasses give `title`, `body` and `leave`, which says whether one may go on."""

    name_shown: ClassVar[str] = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "next", "Next", key_display="^N", priority=True),
        Binding("escape,ctrl+b", "back", "Back", key_display="Esc"),
        Binding("ctrl+x", "app.leave", "Quit", key_display="^X", priority=True),
    ]

    @property
    def wizard(self) -> Wizard:
        """The application."""
        return cast("Wizard", self.app)

    @property
    def draft(self) -> Draft:
        """What was chosen so far."""
        return self.wizard.draft

    @property
    def glyphs(self) -> Glyphs:
        """The signs that this terminal can show."""
        return self.wizard.glyphs

    def compose(self) -> ComposeResult:
        """Lay out the head, the body and the foot."""
        yield Static(self.wizard.heading(self), id="head")
        with Vertical(id="body"):
            yield from self.body()
        yield Static("", id="say", markup=False)
        yield Footer(show_command_palette=False)

    def body(self) -> ComposeResult:
        """Yield the widgets between head and foot."""
        yield from ()

    def say(self, text: str, *, error: bool = False) -> None:
        """Answer the user in a line above the keys; an error says so in words."""
        line = self.query_one("#say", Static)
        line.set_class(error, "error")
        line.update(printable(f"Error: {text}" if error and text else text))

    def fail(self, error: P2VError) -> None:
        """Say what went wrong and the way out."""
        self.say(f"{error} {error.way_out}".strip(), error=True)

    def leave(self) -> bool:
        """Keep what was entered; return whether the next screen may be shown."""
        return True

    def action_next(self) -> None:
        """Go on, if all that is needed is there."""
        # The key has priority, so that no field takes it: it comes before what was typed just ahead
        # of it, which the field must read, and all the way up to this screen hear of, first.
        # What a key causes there waits behind this key's own call, hence a second one.
        here = self.focused or self
        here.call_later(here.call_later, self._follow, here)

    def _follow(self, node: DOMNode) -> None:
        if node is self or node.parent is None:
            self._next()
        else:
            node.parent.call_later(self._follow, node.parent)

    def _next(self) -> None:
        if self.is_current and self.leave():
            self.wizard.go(1)

    def action_back(self) -> None:
        """Go back; what was entered is kept."""
        self.wizard.go(-1)
