# SPDX-License-Identifier: GPL-3.0-or-later
"""Capture of disks that are written to meanwhile: passes, freeze, cut-over (docs/live.md)."""
