# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the wizard runs on the live image, whose network and power are ours to change."""

from __future__ import annotations

from pathlib import Path

LIVE_MEDIUM = Path("/run/live/medium")
"""Where live-boot mounts what it started from."""
