# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
"""Who runs the steps that finish a migration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from p2v.service.steps import STORING_STEPS, Next

if TYPE_CHECKING:
    from p2v.service.migrations import Migrations

RETRY_S = 5.0
"""How often a step that found no room is tried again."""


class Engine(Protocol):
    """Runs `steps.STEPS` for a migration that is `VERIFYING`, and again after a crash."""

    def finish(self, migrations: Migrations, id: str, attempt: int) -> None:
        """Run the steps, or see to it that they are run. Calling it twice is harmless.

        `attempt` counts the hand-overs of the migration: each is a run of its own.
        """


class InlineEngine:
    """Runs the storing steps in the calling thread; `Migrations.recover` repeats what was cut."""

    def finish(self, migrations: Migrations, id: str, attempt: int) -> None:
        """Run the steps to their end."""
        for step in STORING_STEPS:
            while (outcome := step(migrations, id)) is Next.AGAIN:
                time.sleep(RETRY_S)
            if outcome is Next.STOP:
                return
