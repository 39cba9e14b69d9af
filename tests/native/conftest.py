# SPDX-License-Identifier: GPL-3.0-or-later
"""Buffers that are hostile to sloppy kernels."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PROT_NONE = 0


class Guarded:
    """Memory between two pages that kill the process when they are touched."""

    def __init__(self, room: int) -> None:
        self.room = -(-room // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, self.room + 2 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for page in (self._base, self._base + mmap.PAGESIZE + self.room):
            if _libc.mprotect(page, mmap.PAGESIZE, PROT_NONE) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")

    def at_end(self, length: int) -> memoryview:
        """Return writable memory whose last byte is the last one before the guard."""
        return self._memory(mmap.PAGESIZE + self.room - length, length)

    def at_start(self, length: int) -> memoryview:
        """Return writable memory whose first byte is the first one after the guard."""
        return self._memory(mmap.PAGESIZE, length)

    def _memory(self, offset: int, length: int) -> memoryview:
        return memoryview((ctypes.c_ubyte * length).from_address(self._base + offset)).cast("B")


@pytest.fixture(scope="session")
def guarded() -> Iterator[Callable[[], Guarded]]:
    """Make guarded memory of 64 KiB; kept to the end, as views do not own it."""
    kept: list[Guarded] = []

    def make() -> Guarded:
        kept.append(Guarded(1 << 16))
        return kept[-1]

    return make
