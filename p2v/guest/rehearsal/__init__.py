# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearsals: start a throw-away overlay of a guest, with no network, and say how far it gets.

`rehearse` runs it; `machine` is the virtual machine, `screen` and `font` read its screen, `signs`
knows what guests say where they end, and `verdict` is what comes out.
"""
