# SPDX-License-Identifier: GPL-3.0-or-later
"""One thing to know before a migration, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much it matters; the order is that of screens."""

    CRITICAL = "critical"
    """The virtual machine will not start, or data is lost, unless something is done."""
    WARNING = "warning"
    INFORMATION = "information"


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is a stable slug, `subject` a disk, partition or interface, "" for the machine."""

    level: Level
    code: str
    subject: str
    message: str
    action: str = ""
