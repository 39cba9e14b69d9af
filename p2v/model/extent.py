# SPDX-License-Identifier: GPL-3.0-or-later
"""Byte ranges of a disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """`length` bytes from `offset` on; `zero` says that they are known to read as zeros."""

    offset: int
    length: int
    zero: bool = False

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length
