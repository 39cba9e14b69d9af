# SPDX-License-Identifier: GPL-3.0-or-later
"""Widgets that need no glyph beyond ASCII and no key that a console cannot send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Offset
from textual.message import Message
from textual.reactive import reactive
from textual.scrollbar import ScrollBarRender
from textual.validation import ValidationResult, Validator
from textual.widget import Widget
from textual.widgets import Input, OptionList

from p2v.model.errors import UsageError

_COLOUR = Color.default()


class PlainScrollBar(ScrollBarRender):
    """A scroll bar of whole characters: Textual's own one is made of eighths of blocks."""

    @classmethod
    def render_bar(
        cls,
        size: int = 25,
        virtual_size: float = 50,
        window_size: float = 20,
        position: float = 0,
        thickness: int = 1,
        vertical: bool = True,
        back_color: Color = _COLOUR,
        bar_color: Color = _COLOUR,
    ) -> Segments:
        """Return the bar: ``#`` where the window is, ``|`` or ``-`` elsewhere."""
        length = max(1, round(size * window_size / virtual_size)) if virtual_size else size
        start = round(size * position / virtual_size) if virtual_size else 0
        rest = ("|" if vertical else "-") * thickness
        style = Style()
        parts = [
            Segment("#" * thickness if start <= at < start + length else rest, style)
            for at in range(size)
        ]
        return Segments(parts, new_lines=vertical)


async def heed(widget: Widget, event: events.Key) -> None:
    """Run at once what `widget` binds a key to; other keys go on.

    Textual lets a key that is bound wander up to the application first. What is typed right after
    it is faster: Backspace would delete the letter that follows it.
    """
    for binding in widget._bindings.key_to_bindings.get(event.key, ()):
        event.stop()
        event.prevent_default()
        await widget.run_action(binding.action)
        return


class Field(Input):
    """A line to be filled in."""

    def on_mount(self) -> None:
        """Leave ^X to the wizard: a console has no clipboard."""
        self._bindings.key_to_bindings.pop("ctrl+x", None)

    async def _on_key(self, event: events.Key) -> None:
        await heed(self, event)


class NetworkField(Field):
    """A network's name; up and down go through those that the hosts have."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "take(1)", "Next network", key_display="Down"),
        Binding("up", "take(-1)", show=False),
    ]
    known: tuple[str, ...] = ()

    def action_take(self, step: int) -> None:
        """Fill in the next known network, or the one before; among them is none."""
        names = ("", *self.known)
        at = names.index(self.value) if self.value in names else 0
        self.value = names[(at + step) % len(names)]


class Pane(VerticalScroll, can_focus=True):
    """A text to be scrolled; the terminal's cursor is at its first line for screen readers."""

    def on_focus(self) -> None:
        """Move the terminal's cursor here."""
        self.app.cursor_position = self.content_region.offset


class Rows(OptionList):
    """A list of lines, one of them current; the terminal's cursor is there for screen readers."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("space", "select", show=False)]

    async def _on_key(self, event: events.Key) -> None:
        await heed(self, event)

    def show(self, lines: Sequence[Content | Text | str]) -> None:
        """Replace the lines; the current one stays where it was."""
        texts = [Text(line) if isinstance(line, str) else line for line in lines]
        if len(texts) == self.option_count:
            for index, text in enumerate(texts):
                if self.get_option_at_index(index).prompt != text:
                    self.replace_option_prompt_at_index(index, text)
            return
        at = self.highlighted
        self.clear_options()
        self.add_options(texts)
        if lines:
            self.highlighted = min(at or 0, len(lines) - 1)

    def watch_highlighted(self, highlighted: int | None) -> None:
        """Move the terminal's cursor with the current line."""
        super().watch_highlighted(highlighted)
        if self.has_focus:
            self.call_after_refresh(self._point)  # the list may have to scroll first

    def on_focus(self) -> None:
        """Move the terminal's cursor here."""
        self._point()

    def _point(self) -> None:
        region = self.content_region
        line = self._index_to_line.get(self.highlighted or 0, 0) - self.scroll_offset.y
        down = max(0, min(line, region.height - 1))
        self.app.cursor_position = Offset(region.x, region.y + down)


class Pick(Widget, can_focus=True):
    """One of a few words; left, right and space change it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", show=False),
        Binding("right,space", "move(1)", "Change", key_display="space"),
    ]
    index: reactive[int] = reactive(0, layout=True)

    class Changed(Message):
        """Another word was picked."""

        def __init__(self, pick: Pick) -> None:
            super().__init__()
            self.pick = pick

        @property
        def control(self) -> Pick:
            """The widget, for selectors."""
            return self.pick

    def __init__(self, words: Sequence[str], index: int = 0, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.words = tuple(words)
        self.set_reactive(Pick.index, index)

    @property
    def word(self) -> str:
        """The word that is picked."""
        return self.words[self.index]

    async def _on_key(self, event: events.Key) -> None:
        await heed(self, event)

    def render(self) -> RenderResult:
        """Show the word between angles, which say that there are others."""
        return Text(f"< {self.word} >", "reverse" if self.has_focus else "")

    def action_move(self, step: int) -> None:
        """Pick the next word, or the one before."""
        self.index = (self.index + step) % len(self.words)
        self.post_message(self.Changed(self))

    def on_focus(self) -> None:
        """Move the terminal's cursor here."""
        self.refresh()
        self.app.cursor_position = self.content_region.offset

    def on_blur(self) -> None:
        """Show that it is not current."""
        self.refresh()


class Tabs(Pick):
    """A few words in a row, all of them shown; left, right and space change the current one."""

    def render(self) -> RenderResult:
        """Show all words; brackets, not colour, say which is current."""
        text = Text()
        for at, word in enumerate(self.words):
            now = at == self.index
            style = ("reverse" if self.has_focus else "bold") if now else ""
            text.append(f"[{word}]" if now else f" {word} ", style)
            text.append(" ")
        return text


class Parses(Validator):
    """Holds a text valid that `parse` takes; the reason of its `UsageError` is shown."""

    def __init__(self, parse: Callable[[str], object]) -> None:
        super().__init__()
        self._parse = parse

    def validate(self, value: str) -> ValidationResult:
        """Parse."""
        try:
            self._parse(value)
        except UsageError as error:
            return self.failure(str(error))
        return self.success()
