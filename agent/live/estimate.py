# SPDX-License-Identifier: GPL-3.0-or-later
"""What a live capture will take, before it begins: from how much is written now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.capture.leaves import kernel_name
from agent.device import is_block, resolve
from agent.inventory.load import measure_load
from agent.live.passes import GOAL_S, Limits, Pass, format_seconds, under_way
from p2v.model.machine import Load
from p2v.model.plan import Plan
from p2v.model.units import format_size

WINDOW_S = 3.0
LINK = 10**9 // 8
"""Bytes a second of the link that is assumed where no limit says another: one of 1 Gbit/s."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is to be expected; bytes, and bytes a second.

    `used` are to be sent at `rate`, while `churn` are written, each place counted as often as it is
    written to: at most so much. `passes` and the seconds until the first good moment for the freeze
    are None where writes outrun the passes.
    """

    used: int
    churn: float
    rate: float
    passes: int | None
    finish_s: float | None

    @property
    def outrun(self) -> bool:
        """Whether as much is written as can be sent."""
        return self.passes is None

    def describe(self) -> str:
        """Return it in a sentence, for people."""
        churn, rate = f"{format_size(self.churn)}/s", f"{format_size(self.rate)}/s"
        if self.passes is None or self.finish_s is None:
            return (
                f"{churn} are written, and {rate} can be sent: passes may never catch up. Migrate "
                "at a quieter time, or over a faster link."
            )
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        return (
            f"{churn} are written. At {rate} it takes {passes} ({format_size(self.used)} to begin "
            f"with) and about {format_seconds(self.finish_s)}, until what is left can be read in "
            f"{format_seconds(GOAL_S)} of freeze."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        finish = None if self.finish_s is None else round(self.finish_s)
        return {
            "used": self.used,
            "churn": round(self.churn),
            "rate": round(self.rate),
            "passes": self.passes,
            "finish_s": finish,
            "outrun": self.outrun,
        }


def estimate(
    plan: Plan, watch: Callable[[float, tuple[str, ...], tuple[str, ...]], Load] = measure_load
) -> Estimate:
    """Watch the disks of a plan for `WINDOW_S` seconds, and say what capturing them live takes."""
    paths = [resolve(disk.path) for disk in plan.disks]
    names = tuple(kernel_name(path) for path in paths if is_block(path))
    load = watch(WINDOW_S, names, ())
    churn = float(sum(disk.write_bytes for disk in load.disks))
    used = sum(disk.used or disk.size for disk in plan.disks)
    rate = float(plan.bwlimit or LINK)
    expected = under_way(Pass(round(rate), 1.0, round(churn)), used, Limits(freeze_s=GOAL_S))
    return Estimate(used, churn, rate, expected.passes, expected.finish_s)
