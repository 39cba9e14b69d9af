# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes of a VHDX file: bounded reads, room, durability, and how the file is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from p2v.images._file import Syncer, allocate, pread_exact
from p2v.model.errors import ImageError


class FileView:
    """The bytes of an open VHDX file; `size` is how many they are."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        self.size = os.fstat(fd).st_size
        self._syncer = Syncer(fd)

    def readinto(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` from `offset` on.

        Raises:
            ImageError: the file ends before.
        """
        pread_exact(self.fd, offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on; for structures, not for data.

        Raises:
            ImageError: the file ends before.
        """
        buffer = bytearray(length)
        self.readinto(offset, buffer)
        return bytes(buffer)

    def reserve(self, offset: int, length: int) -> None:
        """Take room for the range at the file's end; it reads as zeros.

        Raises:
            NoRoomError: the file system is full.
            ImageError: the file system does not hold files of that size.
        """
        allocate(self.fd, offset, length)
        self.size = offset + length

    def resize(self, size: int) -> None:
        """Cut the file, or extend it with zeros."""
        os.truncate(self.fd, size)
        self.size = size

    def sync(self) -> None:
        """Make durable all that was written; once this has failed it fails for good.

        Raises:
            ImageError: the disk failed, now or before.
            NoRoomError: the file system is full.
        """
        try:
            self._syncer.sync()
        except OSError as error:
            problem = f"it could not be made durable ({error.strerror}); resume it"
            raise ImageError(path=self.path, problem=problem) from error

    def refuse(self, problem: str) -> NoReturn:
        """Raise `ImageError` for this file."""
        raise ImageError(path=self.path, problem=problem)
