# SPDX-License-Identifier: GPL-3.0-or-later
"""The converter: one port for control and data, durable migrations, their store."""
