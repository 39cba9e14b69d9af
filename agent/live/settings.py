# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user wants of a live capture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent.live.cutover import Cutover
from agent.live.hooks import FOLDER

FREEZE_LIMIT_S = 5.0
"""A freeze that takes longer is ended by the watchdog; applications notice, and go on."""


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """When to cut over, and what that may cost."""

    cutover: Cutover = field(default_factory=Cutover)
    freeze_limit_s: float = FREEZE_LIMIT_S
    hooks: Path = FOLDER
    folder: Path | None = None
    """Where the images are written on this machine, if they are."""
