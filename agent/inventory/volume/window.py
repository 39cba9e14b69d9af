# SPDX-License-Identifier: GPL-3.0-or-later
"""A bounded view of a part of a disk, for reading structures that may be damaged or hostile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2v.model.errors import P2VError
from p2v.model.units import MiB

_MAX_READ = 16 * MiB


class VolumeDamagedError(P2VError):
    """A structure on the disk is not what its format demands, or cannot be read."""

    code = "volume-damaged"
    message = "The volume's structures cannot be understood: {problem}."


@dataclass(frozen=True, slots=True)
class State:
    """What a volume says of itself.

    Attributes:
        used: bytes in use, None where the volume keeps no count.
        size: bytes that it manages, where free space can be taken from them to know what is used.
        unclean: why it needs recovery before its allocation map can be trusted, in words; empty
            where it is clean.
        damaged: its own marks say that its allocation map may be wrong, mounted or not.
        hibernated: it belongs to a suspended system that will go on from where it was.
        group: the set that it is a member of.
        shared: it spans several devices.
    """

    used: int | None = None
    size: int | None = None
    unclean: str = ""
    damaged: bool = False
    hibernated: bool = False
    group: str = ""
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """`size` bytes from `offset` of the open file `fd`."""

    fd: int
    offset: int
    size: int

    def read(self, at: int, length: int) -> bytes:
        """Return `length` bytes from `at`, relative to the window.

        Raises:
            VolumeDamagedError: the range leaves the window, or the disk cannot be read there.
        """
        if at < 0 or length < 0 or length > _MAX_READ or at + length > self.size:
            raise VolumeDamagedError(problem=f"{length} bytes at {at} are outside it")
        try:
            data = os.pread(self.fd, length, self.offset + at)
        except OSError as error:
            raise VolumeDamagedError(problem=f"reading at {at}: {error.strerror}") from error
        if len(data) < length:
            raise VolumeDamagedError(problem=f"it ends before byte {at + length}")
        return data


@contextmanager
def open_window(path: Path, offset: int, size: int) -> Iterator[Window]:
    """Open `path` for reading and give a window of `size` bytes from `offset`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Window(fd, offset, size)
    finally:
        os.close(fd)
