# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host gets the virtual machine: stars, and why; or none, just the image."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from agent.credentials import find_credentials
from agent.stream.remote import Address, RemoteConverter
from agent.tui.step import Step
from agent.tui.text import stars
from agent.tui.widgets import Rows
from p2v.model.command import printable
from p2v.model.errors import P2VError
from p2v.model.rating import Rating

_NONE = "No host: only the images are made, and the host is chosen later."


class HostStep(Step):
    """The converter's ratings of its hosts for this plan, best first."""

    name_shown = "Host"

    def body(self) -> ComposeResult:
        """Yield the hosts and the explanation of the current one."""
        yield Rows(id="hosts")
        with VerticalScroll(id="why", can_focus=True):
            yield Static("", id="more", classes="text", markup=False)

    def on_mount(self) -> None:
        """Ask the converter."""
        self._ratings: tuple[Rating, ...] = ()
        self._show()
        self.say("Asking the converter for its hosts ...")
        self._ask()

    @work(thread=True, exclusive=True)
    def _ask(self) -> None:
        try:
            address = Address.parse(self.draft.target.server)
            converter = RemoteConverter(address, find_credentials(address))
            try:
                ratings = tuple(map(Rating.from_json, converter.placement(self.draft.plan())))
            finally:
                converter.close()
        except P2VError as error:
            self.app.call_from_thread(self.fail, error)
            return
        self.app.call_from_thread(self._rated, ratings)

    def _rated(self, ratings: tuple[Rating, ...]) -> None:
        self._ratings = ratings
        self.say(
            "" if ratings else "The converter knows no hosts; 'p2v hosts add' tells it of some."
        )
        if self.is_attached:
            self._show()

    def _show(self) -> None:
        rows = self.query_one("#hosts", Rows)
        chosen = self.draft.host
        lines = [f"({'x' if not chosen else ' '}) {_NONE}"]
        for each in self._ratings:
            mark = "x" if each.host == chosen else " "
            where = "/".join((*each.group, each.host))
            lines.append(f"({mark}) {stars(each.stars, self.glyphs)}  {where}  {each.hypervisor}")
        rows.show([Text(printable(line)) for line in lines])
        rows.focus()

    @on(Rows.OptionHighlighted, "#hosts")
    def _explain(self, event: Rows.OptionHighlighted) -> None:
        at = event.option_index
        lines = [_NONE] if at == 0 else list(rating_lines(self._ratings[at - 1]))
        self.query_one("#more", Static).update("\n".join(printable(line) for line in lines))

    @on(Rows.OptionSelected, "#hosts")
    def _choose(self, event: Rows.OptionSelected) -> None:
        if event.option_index == 0:
            self.draft.host = ""
        else:
            rating = self._ratings[event.option_index - 1]
            if not rating.stars:
                self.say(f"{rating.host} cannot take it; the reasons are below.", error=True)
                return
            self.draft.host = rating.host
        self.say("")
        self._show()


def rating_lines(rating: Rating) -> Iterator[str]:
    """Yield why a host has its stars: every reason, every term, what would change it."""
    yield f"{rating.host}: {rating.stars:g} stars ({rating.goal})"
    for reason in rating.reasons:
        yield f"  no star: {reason.text}"
    for term in rating.terms:
        yield f"  {term.resource}: {term.stars:.1f} stars; {term.text}"
    for note in rating.notes:
        yield f"  {note}"
    for better in rating.improvements:
        yield f"  {better.change} -> {better.stars:g} stars"
    if rating.age_s is not None:
        yield f"  measured {rating.age_s:.0f} s ago, an average of {rating.samples}"
