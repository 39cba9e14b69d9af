# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this is the live image, whose network, power and disks are p2v's business."""

from __future__ import annotations

from pathlib import Path

LIVE_MEDIUM = Path("/run/live/medium")
"""Where live-boot keeps what it started from."""


def is_live_image() -> bool:
    """Return whether this system was started from the live image."""
    return LIVE_MEDIUM.exists()
