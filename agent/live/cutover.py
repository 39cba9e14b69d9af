# SPDX-License-Identifier: GPL-3.0-or-later
"""When the final pass comes: at once, on command, at a time, or not in this run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from p2v.model.errors import UsageError


class When(Enum):
    """What the final pass waits for."""

    NOW = "now"
    """Nothing: it comes when the passes have brought the freeze down."""
    WAIT = "wait"
    """A command; meanwhile passes keep the image warm."""
    AT = "at"
    """A time of the day, or the command."""
    LATER = "later"
    """Another run: this one ends when the image is up to date."""


@dataclass(frozen=True, slots=True)
class Cutover:
    """When to cut over; `at` is seconds since the epoch."""

    when: When = When.NOW
    at: float = 0.0

    def due(self, commanded: bool) -> bool:
        """Whether the final pass may come now."""
        if self.when is When.NOW or commanded:
            return True
        return self.when is When.AT and time.time() >= self.at

    def wait_s(self, most: float) -> float:
        """Return how long to wait before looking again, at most so many seconds."""
        if self.when is When.AT:
            return max(0.0, min(most, self.at - time.time()))
        return most


def parse_cutover(words: Sequence[str], now: datetime | None = None) -> Cutover:
    """Return what ``now``, ``wait``, ``later``, ``at 23:30``, ``at 2026-12-31T23:30`` say.

    Times are local.

    Raises:
        UsageError: they say something else, or a time that is past.
    """
    now = now or datetime.now().astimezone()
    match list(words):
        case ["now"]:
            return Cutover(When.NOW)
        case ["wait"]:
            return Cutover(When.WAIT)
        case ["later"]:
            return Cutover(When.LATER)
        case ["at", text]:
            return Cutover(When.AT, _time(text, now).timestamp())
    forms = "now, wait, later, at HH:MM or at YYYY-MM-DDTHH:MM"
    raise UsageError(problem=f"'--cutover {' '.join(words)}': write {forms}")


def _time(text: str, now: datetime) -> datetime:
    try:
        if "T" not in text:
            clock = datetime.strptime(text, "%H:%M").time()
            found = datetime.combine(now.date(), clock, now.tzinfo)
            return found if found > now else found + timedelta(days=1)
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(problem=f"'{text}' is no time; write 23:30 or 2026-12-31T23:30") from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=now.tzinfo)
    if found <= now:
        raise UsageError(problem=f"{text} is past")
    return found
