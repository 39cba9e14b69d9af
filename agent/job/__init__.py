# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration that runs in a process of its own, and how screens and commands reach it."""
