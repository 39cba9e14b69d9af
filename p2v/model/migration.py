# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration: a plan being carried out. Its state lives in the converter."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from p2v.model.plan import Plan


class MigrationState(StrEnum):
    """Where a migration stands. The last three are final."""

    RECEIVING = "receiving"
    PAUSED = "paused"
    VERIFYING = "verifying"
    COMMITTING = "committing"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in (self.FINISHED, self.FAILED, self.CANCELLED)


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration as the API shows it; times are seconds since the epoch, sizes bytes."""

    id: str
    plan: Plan
    state: MigrationState
    created: float
    updated: float
    owner: str = ""
    problem: str = ""
    """Why it is paused or failed, in a sentence."""
    problem_code: str = ""
    """The `code` of the error behind `problem`."""
    images: tuple[str, ...] = ()
    """Paths of the images on the converter, in the order of the plan's disks."""
    verified: tuple[int, int] = (0, 0)
    """While it is verifying: bytes that were read back, and all that are to be; (0, 0) unknown."""
    report: dict[str, Any] = field(default_factory=dict)
    """What the agent said at the end: unreadable ranges, skipped partitions, figures."""
