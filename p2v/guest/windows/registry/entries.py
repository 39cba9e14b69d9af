# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs of the new format, of Windows 8.1 and later: entries that hold pages ("New format")."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from p2v.guest.windows.registry.base import MAX_HIVE, PAGE, SECTOR
from p2v.guest.windows.registry.marvin import marvin32


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a hive: where it belongs in the bins, and its bytes."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One atomic change of a hive.

    Attributes:
        sequence: counts up by one from entry to entry, over both logs.
        flags: of the base block, as it shall be afterwards.
        length: bytes of all bins afterwards.
        pages: what to write, in this order.
        size: bytes that the entry takes up in the log.
    """

    sequence: int
    flags: int
    length: int
    pages: tuple[Page, ...]
    size: int

    _HEAD: ClassVar = struct.Struct("<4sIIIIIQQ")
    _HASHED: ClassVar = 32
    _REFERENCE: ClassVar = struct.Struct("<II")

    @classmethod
    def parse(cls, log: bytes, at: int) -> Self | None:
        """Read the entry at an offset of a log; None if none is there, or any of it is wrong.

        "Log entries", notes 1 to 3 and 8: what follows a wrong entry is not recovered.
        """
        if at + cls._HEAD.size > len(log):
            return None
        head = cls._HEAD.unpack_from(log, at)
        signature, size, flags, sequence, length, count, data_hash, head_hash = head
        if (
            signature != b"HvLE"
            or size % SECTOR
            or not cls._HEAD.size + count * cls._REFERENCE.size <= size <= len(log) - at
            or length % PAGE
            or not PAGE <= length <= MAX_HIVE
            or head_hash != marvin32(log[at : at + cls._HASHED])
            or data_hash != marvin32(log[at + cls._HEAD.size : at + size])
        ):
            return None
        pages = cls._pages(log[at + cls._HEAD.size : at + size], count, length)
        return None if pages is None else cls(sequence, flags, length, pages, size)

    @classmethod
    def _pages(cls, body: bytes, count: int, length: int) -> tuple[Page, ...] | None:
        """Cut the pages out of an entry's body; None if one leaves the body or the bins."""
        at = count * cls._REFERENCE.size
        pages = []
        for offset, size in cls._REFERENCE.iter_unpack(body[:at]):
            if at + size > len(body) or offset + size > length:
                return None
            pages.append(Page(offset, body[at : at + size]))
            at += size
        return tuple(pages)


def entries(log: bytes, first: int) -> Iterator[Entry]:
    """Yield the valid entries from a log's start, numbered from `first` on without a gap."""
    at, expected = SECTOR, first
    while (entry := Entry.parse(log, at)) is not None and entry.sequence == expected:
        yield entry
        at += entry.size
        expected = (expected + 1) & 0xFFFFFFFF
