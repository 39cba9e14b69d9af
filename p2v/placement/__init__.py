# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host suits a virtual machine how well, and why. Pure functions; docs/placement.md."""
