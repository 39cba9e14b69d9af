# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs of the old format, up to Windows 8: a bitmap of dirty pages, and them ("Old format")."""

from __future__ import annotations

from p2v.guest.windows.registry.base import PAGE, SECTOR, HiveDamagedError
from p2v.guest.windows.registry.entries import Page

_SIGNATURE = b"DIRT"


def dirty_pages(log: bytes, length: int) -> tuple[Page, ...]:
    """Return the pages that a log holds for a hive whose bins have `length` bytes.

    Raises:
        HiveDamagedError: the log is cut, or has no bitmap. It must not be applied in part.
    """
    start = SECTOR + len(_SIGNATURE)
    bitmap = log[start : start + length // PAGE]
    if log[SECTOR:start] != _SIGNATURE or len(bitmap) != length // PAGE:
        raise HiveDamagedError("its log holds no bitmap of dirty pages")
    at = -(-(start + len(bitmap)) // SECTOR) * SECTOR
    pages = []
    for index, byte in enumerate(bitmap):
        for bit in range(8):
            if byte >> bit & 1:
                pages.append(Page((index * 8 + bit) * SECTOR, log[at : at + SECTOR]))
                at += SECTOR
    if at > len(log):
        raise HiveDamagedError("its log is cut")
    return tuple(pages)
