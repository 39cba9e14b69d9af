# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders as scripts: PowerShell for Hyper-V, shell for the others; docs/scripts.md."""

from __future__ import annotations

from p2v.script.make import make_script

__all__ = ["make_script"]
