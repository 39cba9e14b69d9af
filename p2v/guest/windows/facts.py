# SPDX-License-Identifier: GPL-3.0-or-later
"""What the planner for Windows guests may know of one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowsFacts:
    """A Windows guest.

    Attributes:
        system_root: path of its Windows folder: `/Windows`.
    """

    system_root: str
