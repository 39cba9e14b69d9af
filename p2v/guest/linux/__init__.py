# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux guests. Each concern, and each distribution's way with it, is a step (see `steps`)."""
