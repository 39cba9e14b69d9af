# SPDX-License-Identifier: GPL-3.0-or-later
"""The types that agent and converter both speak: machine, plan, migration, errors."""
