# SPDX-License-Identifier: GPL-3.0-or-later
"""The `p2v` command line, one verb a module."""
