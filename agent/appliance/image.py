# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this is the live image."""

from __future__ import annotations

from pathlib import Path

CONSOLE = Path("/usr/lib/p2v/console")
"""What its consoles run; nothing else has it."""


def is_live_image() -> bool:
    """Return whether this system was started from the live image."""
    return CONSOLE.exists()
