# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a disk: which blocks matter, and the bytes themselves."""
