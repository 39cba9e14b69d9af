# SPDX-License-Identifier: GPL-3.0-or-later
"""Marvin32, the keyed hash over entries of a registry log."""

from __future__ import annotations

import struct

_LOW, _HIGH = 0x7A4E55C5, 0x82EF4D88
"""The registry's own seed ("Log entries", note 3)."""


def marvin32(data: bytes) -> int:
    """Return the 64-bit hash, as the little-endian number that logs store.

    Source of the algorithm: Microsoft's .NET runtime (MIT),
    src/libraries/System.Private.CoreLib/src/System/Marvin.cs
    """
    low, high = _LOW, _HIGH
    padded = data + b"\x80" + bytes(-(len(data) + 1) % 4) + bytes(4)
    for (word,) in struct.iter_unpack("<I", padded):
        # The rounds stand here rather than in a function: this runs for every word of a log.
        low = (low + word) & 0xFFFFFFFF
        high ^= low
        low = ((low << 20 | low >> 12) + high) & 0xFFFFFFFF
        high = (high << 9 | high >> 23) & 0xFFFFFFFF ^ low
        low = ((low << 27 | low >> 5) + high) & 0xFFFFFFFF
        high = (high << 19 | high >> 13) & 0xFFFFFFFF
    return high << 32 | low
