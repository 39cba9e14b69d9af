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

    `passes` more will bring the freeze down to `freeze_s`; None where writes outrun the passes.
    """

    next: Next
    freeze_s: float
    passes: int | None
    churn: float
    rate: float

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
        passes = "" if self.passes is None else f", after {self.passes} more passes"
        return f"{figures}: {freeze}{passes}."


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
    freeze = limits.overhead_s + chunks * _CHUNK / limits.read_rate
    possible = freeze <= limits.freeze_s and dirty <= limits.memory
    better = not _settled(passes, dirty) and len(passes) < MAX_PASSES
    hope = len(passes) < (PASSES_IN_VAIN if churn >= rate else MAX_PASSES)
    if freeze <= GOAL_S and possible:
        return Forecast(Next.FREEZE, freeze, 0, churn, rate)
    if better or (hope and not possible):
        return Forecast(Next.DELTA, freeze, _more(dirty, churn, rate, limits), churn, rate)
    if possible:
        return Forecast(Next.FREEZE, freeze, 0, churn, rate)
    return Forecast(Next.GIVE_UP, freeze, None, churn, rate)


def _settled(passes: Sequence[Pass], dirty: int) -> bool:
    """Whether the last two passes left about as much as those before them."""
    left = [done.written for done in passes[-3:-1]] + [dirty]
    return len(left) == 3 and all(after > SETTLED * before for before, after in pairwise(left))


def _more(dirty: int, churn: float, rate: float, limits: Limits) -> int | None:
    """How many passes bring the freeze below its goal, if each leaves churn/rate of the last."""
    if churn >= rate:
        return None
    count, left = 0, float(dirty)
    while left / limits.read_rate + limits.overhead_s > GOAL_S and count < MAX_PASSES:
        left *= churn / rate
        count += 1
    return count if count < MAX_PASSES else None


def format_seconds(seconds: float) -> str:
    """Return a short time for people: ``40 ms``, ``2.5 s``."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
