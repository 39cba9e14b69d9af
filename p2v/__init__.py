# SPDX-License-Identifier: GPL-3.0-or-later
"""The converter: wire format, disk images, service and command line of p2v."""

__version__ = "0.1.0"
