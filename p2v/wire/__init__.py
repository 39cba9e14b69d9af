# SPDX-License-Identifier: GPL-3.0-or-later
"""What crosses the wire, as bytes: frames, acknowledgements, digest maps (docs/wire.md)."""
