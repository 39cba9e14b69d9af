# SPDX-License-Identifier: GPL-3.0-or-later
"""The live image's own part: what it was told at its start, and what it does by itself."""
