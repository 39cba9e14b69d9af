# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows guests: registry, drivers and first boot."""
