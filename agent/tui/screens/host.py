# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host gets the virtual machine: stars, and why; or none, just the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Label, Static

from agent.credentials import find_credentials
from agent.stream.remote import Address, RemoteConverter
from agent.tui.step import Step
from agent.tui.terminal import Glyphs
from agent.tui.text import bar, stars
from agent.tui.widgets import Pane, Pick, Rows
from p2v.model.command import printable
from p2v.model.errors import P2VError
from p2v.model.rating import Rating, Term

_NONE = "No host: just the images, the machine is made later"
_STARTS = ("left off", "started")
_CABLES = ("plugged in", "unplugged until somebody has looked")
Row = Rating | str
"""A host, or the name of a group above its hosts; an empty name is no host at all."""


class HostStep(Step):
    """The converter's ratings of its hosts for this plan, best first."""

    name_shown = "Host"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "choose", "Choose", key_display="space"),
        Binding("ctrl+r", "ask", "Ask again", key_display="^R"),
    ]

    def body(self) -> ComposeResult:
        """Yield the hosts, the explanation of the current one, and what is made there."""
        with Vertical(classes="halves"):
            yield Rows(id="hosts")
            with Pane(id="why"):
                yield Static("", id="more", classes="text", markup=False)
        with Vertical(id="options"):
            with Horizontal(classes="field"):
                yield Label("When made", classes="label")
                yield Pick(_STARTS, int(self.draft.power_on), id="start")
            with Horizontal(classes="field"):
                yield Label("Network cables", classes="label")
                yield Pick(_CABLES, int(not self.draft.connected), id="cables")

    def on_mount(self) -> None:
        """Ask the converter."""
        self._rows: list[Row] = [""]
        self._show()
        self.query_one("#hosts").focus()
        self.action_ask()

    def action_ask(self) -> None:
        """Ask the converter for its ratings, again."""
        self.say("Asking the converter for its hosts ...")
        self._ask()

    @work(thread=True, exclusive=True)
    def _ask(self) -> None:
        address = Address.parse(self.draft.target.server)
        try:
            with closing(RemoteConverter(address, find_credentials(address))) as converter:
                ratings = tuple(map(Rating.from_json, converter.placement(self.draft.plan())))
        except P2VError as error:
            self.app.call_from_thread(self.fail, error)
            return
        self.app.call_from_thread(self._rated, ratings)

    def _rated(self, ratings: Sequence[Rating]) -> None:
        self._rows = ["", *grouped(ratings)]
        known = {rating.host for rating in ratings if rating.stars}
        if self.draft.host and self.draft.host not in known:
            self.say(f"{self.draft.host} can no longer take the machine; choose again.", error=True)
            self.draft.host = ""
        elif not ratings:
            self.say("The converter knows no hosts; 'p2v hosts add' on it tells it of some.")
        else:
            self.say("" if known else "No host can take this machine; below is what would help.")
        if self.is_attached:
            self._show()
            self._point(ratings)

    def _point(self, ratings: Sequence[Rating]) -> None:
        """Make the chosen host the current line, or the best one, so that it is explained."""
        wanted = self.draft.host or (ratings[0].host if ratings else "")
        for at, row in enumerate(self._rows):
            if isinstance(row, Rating) and row.host == wanted:
                self.query_one("#hosts", Rows).highlighted = at

    def _show(self) -> None:
        lines = [host_line(row, self.draft.host, self.glyphs) for row in self._rows]
        self.query_one("#hosts", Rows).show([Text(printable(line)) for line in lines])
        self.query_one("#options").display = bool(self.draft.host)

    @on(Rows.OptionHighlighted, "#hosts")
    def _explain(self, event: Rows.OptionHighlighted) -> None:
        row = self._rows[event.option_index]
        lines = list(rating_lines(row, self.glyphs)) if isinstance(row, Rating) else [_about(row)]
        self.query_one("#more", Static).update("\n".join(printable(line) for line in lines))
        self.query_one("#why").scroll_home(animate=False)

    @on(Rows.OptionSelected, "#hosts")
    def action_choose(self) -> None:
        """Choose the current line's host."""
        row = self._rows[self.query_one("#hosts", Rows).highlighted or 0]
        if isinstance(row, str):
            if row:
                self.say("This is a group; choose a host in it.")
                return
            self.draft.host = ""
        elif not row.stars:
            self.say(f"{row.host} cannot take it; its reasons are shown.", error=True)
            return
        else:
            self.draft.host = row.host
        self.say("")
        self._show()

    @on(Pick.Changed, "#start")
    def _take_start(self, event: Pick.Changed) -> None:
        self.draft.power_on = bool(event.pick.index)

    @on(Pick.Changed, "#cables")
    def _take_cables(self, event: Pick.Changed) -> None:
        self.draft.connected = event.pick.index == 0


def grouped(ratings: Sequence[Rating]) -> Iterator[Row]:
    """Yield each group's name and its hosts; the group with the best host comes first."""
    groups = dict.fromkeys(rating.group for rating in ratings)
    for group in groups:
        yield " / ".join(group) or "hosts without a group"
        yield from (rating for rating in ratings if rating.group == group)


def host_line(row: Row, chosen: str, glyphs: Glyphs) -> str:
    """Return a line of the tree of hosts."""
    if isinstance(row, Rating):
        mark = "x" if row.host == chosen else " "
        return f"  ({mark}) {stars(row.stars, glyphs)}  {row.host}  {row.hypervisor}"
    return row or f"({' ' if chosen else 'x'}) {_NONE}"


def _about(group: str) -> str:
    if group:
        return f"The group {group}."
    return (
        "The converter keeps the images. 'p2v hosts deploy' makes the machine later, or the "
        "script that 'p2v script' prints."
    )


def rating_lines(rating: Rating, glyphs: Glyphs) -> Iterator[str]:
    """Yield why a host has its stars: every reason, what would change it, every term."""
    goal = "the least busy host is best" if rating.goal == "balance" else "the fullest is best"
    yield f"{rating.host}: {rating.stars:g} of 5 stars; {goal}"
    for reason in rating.reasons:
        yield f"! {reason.text}"
    for better in rating.improvements:
        yield f"What would help: {better.change}, then {better.stars:g} stars."
    for term in rating.terms:
        yield _term_line(term, glyphs)
    if rating.storage:
        yield f"The disks go to {rating.storage}."
    yield from rating.notes
    if rating.age_s is not None:
        yield f"Measured {_age(rating.age_s)} ago, the average of {rating.samples}."


def _term_line(term: Term, glyphs: Glyphs) -> str:
    """Return a term with a bar of what would be left free; its own words have the numbers."""
    return term.text if term.value is None else f"{bar(term.value, 1.0, 8, glyphs)} {term.text}"


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
