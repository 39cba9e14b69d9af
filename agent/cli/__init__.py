# SPDX-License-Identifier: GPL-3.0-or-later
"""The `p2v-agent` command line, one verb a module."""
