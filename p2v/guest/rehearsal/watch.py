# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch a guest start until it is decided where it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep

from p2v.guest.rehearsal import signs
from p2v.guest.rehearsal.machine import Machine
from p2v.guest.rehearsal.qmp import Gone
from p2v.guest.rehearsal.screen import NOTHING, Picture, Text, read_text
from p2v.guest.rehearsal.verdict import Outcome, Verdict
from p2v.model.errors import ToolError
from p2v.model.units import KiB

Tell = Callable[[str], None]
"""Called with what the guest shows at the moment, a line."""

_LOOK_EVERY_S = 1.0
_SETTLED_LOOKS = 3
_CONSOLE_KEPT = 256 * KiB
_CONSOLE_JUDGED = 16 * KiB
# Reading a screen costs CPU time that an emulated guest needs: not while the console talks.
_CONSOLE_QUIET_S = 5.0
_EVIDENCE_LINES = 25
_RESTARTS = 3
_QEMU_SAYS = "Guest has not initialized the display"
_BLUE_SHARE = 0.6
# The colours of Windows' stop screens: 10 and 11, 8, and 7 with its predecessors.
_STOP_COLOURS = {b"\x00\x78\xd7", b"\x10\x71\xaa", b"\x00\x00\x80", b"\x00\x00\xaa"}


@dataclass(slots=True)
class Watch:
    """The state of one watch; `run` gives its verdict.

    Attributes:
        machine: the guest, already running.
        passphrase: typed once when the guest asks for one; "" for none.
        tell: see `Tell`.
        picture: the last one that was taken.
        console: the end of what came over the serial console since the last restart.
    """

    machine: Machine
    passphrase: str = ""
    tell: Tell | None = None
    picture: Picture | None = None
    console: str = ""
    _text: Text = NOTHING
    _heard: float = float("-inf")
    _restarts: int = 0
    _candidate: tuple[Outcome | None, int] = (None, 0)
    _concerns: dict[str, None] = field(default_factory=dict)

    def run(self, timeout_s: float) -> Verdict:
        """Watch until the guest has reached a login, or failed, or `timeout_s` has passed.

        Raises:
            ToolError: QEMU ended for a reason of its own.
        """
        deadline = monotonic() + timeout_s
        try:
            while monotonic() < deadline:
                if (outcome := self._look()) is not None:
                    return self._verdict(outcome)
                sleep(_LOOK_EVERY_S)
        except Gone as error:
            if self.machine.overflowed():
                return self._verdict(Outcome.NO_ROOM)
            raise ToolError(tool="QEMU", problem=self.machine.last_words()) from error
        return self._verdict(self._at_the_end())

    def _look(self) -> Outcome | None:
        for event in self.machine.qmp.events():
            if event["event"] == "RESET" and event["data"].get("guest"):
                self._restarts += 1
                self.console = ""
                if self._restarts > _RESTARTS:
                    return Outcome.RESTARTING
            if event["event"] == "SHUTDOWN" and event["data"].get("guest"):
                return Outcome.SWITCHED_OFF
        self._listen()
        if monotonic() - self._heard > _CONSOLE_QUIET_S:
            self._read_screen()
        on_console = signs.outcome_of(self._console_lines())
        outcome = on_console or signs.outcome_of(self._text.lines) or self._stop_colour()
        if outcome is Outcome.LOGIN:
            return outcome
        if not self._settled(outcome):
            return None
        if outcome is Outcome.PASSPHRASE and self.passphrase:
            self._unlock(on_console is Outcome.PASSPHRASE)
            return None
        return outcome

    def _settled(self, outcome: Outcome | None) -> bool:
        """Return whether the same was seen several times in a row: a screen is drawn in steps."""
        before, looks = self._candidate
        self._candidate = (outcome, looks + 1 if outcome is before else 1)
        return outcome is not None and self._candidate[1] >= _SETTLED_LOOKS

    def _listen(self) -> None:
        said = self.machine.console().decode(errors="replace")
        if said:
            self._heard = monotonic()
            self.console = (self.console + said)[-_CONSOLE_KEPT:]
            lines = self._console_lines()
            if self.tell and lines:
                self.tell(lines[-1])

    def _read_screen(self) -> None:
        picture = self.machine.picture()
        if picture is None or picture == self.picture:
            return
        self.picture = picture
        before, self._text = self._text, read_text(picture)
        if any(_QEMU_SAYS in line for line in self._text.lines):
            self._text = NOTHING
        self._concerns |= dict.fromkeys(signs.concerns_of(self._text.lines))
        if self.tell and self._text != before and self._text.lines:
            self.tell(self._text.lines[-1])

    def _unlock(self, on_console: bool) -> None:
        """Type the passphrase where it is asked for, once, and forget that it was asked."""
        answer, self.passphrase = f"{self.passphrase}\n", ""
        if on_console:
            self.machine.answer(answer)
            self.console += "\n(the passphrase was typed)\n"
        else:
            self.machine.qmp.type(answer)
        self._candidate = (None, 0)

    def _stop_colour(self) -> Outcome | None:
        if self.picture is None or self._text.readable:
            return None
        colour, share = self.picture.dominant()
        stopped = colour in _STOP_COLOURS and share >= _BLUE_SHARE
        return Outcome.WINDOWS_STOP if stopped else None

    def _at_the_end(self) -> Outcome:
        lines = self._text.lines
        if signs.waits(lines) or signs.waits(self._console_lines()[-_EVIDENCE_LINES:]):
            return Outcome.BOOT_LOADER
        if self.picture and lines and not self._text.readable:
            return Outcome.GRAPHICAL_SCREEN
        return Outcome.STUCK

    def _console_lines(self) -> list[str]:
        """Return the lines that are judged: of an answer long given nothing shall follow."""
        return signs.clean(self.console[-_CONSOLE_JUDGED:])

    def _verdict(self, outcome: Outcome) -> Verdict:
        console = signs.clean(self.console)
        self._concerns |= dict.fromkeys(signs.concerns_of(console))
        screen = self._text.lines if self._text.readable else ()
        return Verdict(
            outcome,
            cause=_cause(outcome, self._console_lines(), screen),
            console=tuple(console[-_EVIDENCE_LINES:]),
            screen=screen,
            concerns=tuple(self._concerns)[:_EVIDENCE_LINES],
        )


def _cause(outcome: Outcome, console: list[str], screen: tuple[str, ...]) -> str:
    if outcome is Outcome.LOGIN:
        return ""
    said = signs.cause_of(console) or signs.cause_of(screen)
    last = next((line for line in reversed(console or screen) if line.strip()), "").strip()
    return said or (f"The last it showed is: {last}" if last else "")
