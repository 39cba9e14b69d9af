# SPDX-License-Identifier: GPL-3.0-or-later
"""A question over the current screen: by a word typed where something would be lost."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, Static

from agent.tui.widgets import Field


class Question(ModalScreen[str]):
    """Asks for one of `words`; the result is that word, or "" for none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss('')", "Back, change nothing", key_display="Esc")
    ]

    def __init__(self, text: str, words: tuple[str, ...]) -> None:
        super().__init__()
        self._text = text
        self._words = words

    def compose(self) -> ComposeResult:
        """Show the question and a field for the word."""
        with Vertical(id="question"):
            yield Static(self._text, classes="text", markup=False)
            with Horizontal(classes="field answer"):
                yield Label("> ")
                yield Field(id="word")
            yield Static("", id="wrong", markup=False)
        yield Footer(show_command_palette=False)

    @on(Input.Submitted, "#word")
    def _answer(self, event: Input.Submitted) -> None:
        word = event.value.strip().lower()
        if word in self._words:
            self.dismiss(word)
        else:
            choices = " or ".join(f"'{each}'" for each in self._words)
            self.query_one("#wrong", Static).update(f"Type {choices} and Enter, or press Esc.")


class Entry(ModalScreen[str]):
    """Asks for a text; the result is what was typed, or "" for none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss('')", "Back, change nothing", key_display="Esc")
    ]

    def __init__(self, text: str, value: str = "") -> None:
        super().__init__()
        self._text = text
        self._value = value

    def compose(self) -> ComposeResult:
        """Show what is asked and the field."""
        with Vertical(id="question"):
            yield Static(self._text, classes="text", markup=False)
            with Horizontal(classes="field answer"):
                yield Label("> ")
                yield Field(self._value, id="word")
        yield Footer(show_command_palette=False)

    @on(Input.Submitted, "#word")
    def _answer(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())
