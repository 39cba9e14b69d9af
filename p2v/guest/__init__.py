# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest inside an image: inspect it, plan edits, apply and check them, rehearse its start."""
