# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent: finds out what a machine is and streams its disks to a converter."""
