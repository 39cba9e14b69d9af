# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk image formats: a module a format, and a validator that shares no code with the writers."""
