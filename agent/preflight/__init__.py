# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of a migration, from what the inventory found. Pure."""
