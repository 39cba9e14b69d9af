# SPDX-License-Identifier: GPL-3.0-or-later
"""Byte units, and sizes and rates as people write and read them."""

from __future__ import annotations

import re

from p2v.model.errors import UsageError

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

_SUFFIX = {"": 1, "k": KiB, "m": MiB, "g": GiB, "t": TiB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?(?:/s)?", re.IGNORECASE)


def format_size(count: float) -> str:
    """Return `count` bytes as text with a binary unit: ``1.5 GiB``, ``512 B``."""
    for unit, name in ((TiB, "TiB"), (GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{int(count)} B"


def parse_size(text: str) -> int:
    """Return the bytes that `text` names: ``400M``, ``1.5 GiB``, ``10m/s``; units are binary.

    Raises:
        UsageError: `text` is no size, or is zero.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (value := int(float(match[1]) * _SUFFIX[match[2].lower()])) <= 0:
        raise UsageError(problem=f"'{text}' is not a size; write it like 400M or 1.5GiB")
    return value
