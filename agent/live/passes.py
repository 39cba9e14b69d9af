# SPDX-License-Identifier: GPL-3.0-or-later
"""When another pass is worth it, how long the freeze will take, and when it can't be done. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from p2v.model.units import KiB, MiB, format_size

GOAL_S = 0.05
"""A freeze that is predicted to be shorter than this is not worth another pass."""
WORTH_S = 0.005
"""Nor is one that could only save this much: freezing and thawing take what they take."""
SETTLED = 0.7
"""A pass that leaves more than this share of what the one before it left has not helped."""
MAX_PASSES = 40
PASSES_IN_VAIN = 8
"""Passes that are made while more is written than they can send: it may become quieter."""
MAX_TAKEN = 64 * MiB
"""What is read while all is frozen is kept in locked memory: at most so much."""
_FIRST_RATE = 200 * MiB
_CHUNK = 256 * KiB


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass that ended: what it had to send, how long it took, and what was written meanwhile."""

    bytes: int
    seconds: float
    written: int

    @property
    def rate(self) -> float:
        """Bytes a second that it dealt with."""
        return self.bytes / max(self.seconds, 0.001)

    @property
    def churn(self) -> float:
        """Bytes a second that were written meanwhile, each place counted once."""
        return self.written / max(self.seconds, 0.001)


class Next(Enum):
    """What comes after a pass."""

    DELTA = "another pass"
    FREEZE = "the freeze"
    GIVE_UP = "an end"


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected, from what was measured.

    A freeze now would take `freeze_s`. `passes` more will bring it down to its goal, and the first
    moment for it is in `finish_s` seconds; both are None where writes outrun the passes.
    """

    next: Next
    freeze_s: float
    passes: int | None
    churn: float
    rate: float
    finish_s: float | None = None

    @property
    def outrun(self) -> bool:
        """Whether as much is written as can be sent."""
        return self.churn >= self.rate

    def describe(self) -> str:
        """Return it in a sentence, for people."""
        freeze = f"a freeze of about {format_seconds(self.freeze_s)}"
        if self.rate <= 1.0:  # the last pass had nothing to send, and has measured nothing
            return f"Hardly anything is written: {freeze}."
        figures = f"{format_size(self.churn)}/s are written, {format_size(self.rate)}/s can be sent"
        if self.outrun:
            return f"Writes outrun the passes ({figures}); {freeze} is to be expected."
        if not self.passes or self.finish_s is None:
            return f"{figures}: {freeze}."
        passes = "1 more pass" if self.passes == 1 else f"{self.passes} more passes"
        return f"{figures}: {passes} in about {format_seconds(self.finish_s)} before the freeze."


@dataclass(frozen=True, slots=True)
class Limits:
    """What a freeze may cost: seconds, and bytes of locked memory.

    `overhead_s` is what freezing and thawing take by themselves, `read_rate` the bytes a second at
    which scattered chunks are read; both as they were measured.
    """

    freeze_s: float
    overhead_s: float = 0.0
    read_rate: float = _FIRST_RATE
    memory: int = MAX_TAKEN


def forecast(passes: Sequence[Pass], dirty: int, chunks: int, limits: Limits) -> Forecast:
    """Return what to do when `dirty` bytes in `chunks` chunks wait after these passes."""
    last = passes[-1] if passes else Pass(0, 0.0, 0)
    churn, rate = last.churn, max(last.rate, 1.0)
    reading = chunks * _CHUNK / limits.read_rate
    freeze = limits.overhead_s + reading
    possible = freeze <= limits.freeze_s and dirty <= limits.memory
    better = not _settled(passes, dirty) and len(passes) < MAX_PASSES
    hope = len(passes) < (PASSES_IN_VAIN if churn >= rate else MAX_PASSES)
    if possible and (freeze <= GOAL_S or reading <= WORTH_S):
        return Forecast(Next.FREEZE, freeze, 0, churn, rate, 0.0)
    if better or (hope and not possible):
        more, seconds = _to_come(dirty, churn, rate, limits)
        return Forecast(Next.DELTA, freeze, more, churn, rate, seconds)
    if possible:
        return Forecast(Next.FREEZE, freeze, 0, churn, rate, 0.0)
    return Forecast(Next.GIVE_UP, freeze, None, churn, rate)


def under_way(done: Pass, left: int, limits: Limits) -> Forecast:
    """Return what is to be expected in a pass that did `done` so far and has `left` bytes to do."""
    churn, rate = done.churn, max(done.rate, 1.0)
    seconds = left / rate
    dirty = min(done.bytes + left, round(done.written + churn * seconds))
    more, further = _to_come(dirty, churn, rate, limits)
    now = limits.overhead_s + done.written / limits.read_rate
    finish = None if further is None else seconds + further
    return Forecast(Next.DELTA, now, None if more is None else 1 + more, churn, rate, finish)


def _settled(passes: Sequence[Pass], dirty: int) -> bool:
    """Whether the last two passes left about as much as those before them."""
    left = [done.written for done in passes[-3:-1]] + [dirty]
    return len(left) == 3 and all(after > SETTLED * before for before, after in pairwise(left))


def _to_come(
    dirty: int, churn: float, rate: float, limits: Limits
) -> tuple[int | None, float | None]:
    """How many passes bring the freeze below its goal, and how long they take.

    Each leaves churn/rate of what the one before it left.
    """
    if churn >= rate:
        return None, None
    count, left, seconds = 0, float(dirty), 0.0
    while left / limits.read_rate > max(WORTH_S, GOAL_S - limits.overhead_s):
        if (count := count + 1) == MAX_PASSES:
            return None, None
        seconds += left / rate
        left *= churn / rate
    return count, seconds


def format_seconds(seconds: float) -> str:
    """Return a time for people: ``40 ms``, ``2.5 s``, ``12 min``, ``3.5 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
