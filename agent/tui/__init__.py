# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard: makes a plan, starts a job, watches it. All work is done by others."""
