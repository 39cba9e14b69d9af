# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes of a VHDX file: bounded reads, room, durability, and how the file is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

from p2v.images._file import allocate, pread_exact, room_for
from p2v.model.errors import ImageError, NoRoomError


class FileView:
    """The bytes of an open VHDX file; `size` is how many they are."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        self.size = os.fstat(fd).st_size
        self._lost = ""

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
        try:
            allocate(self.fd, offset, length)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            self.refuse(f"its file system holds no file of {offset + length} bytes")
        self.size = offset + length

    def resize(self, size: int) -> None:
        """Cut the file, or extend it with zeros."""
        os.truncate(self.fd, size)
        self.size = size

    def sync(self) -> None:
        """Make durable all that was written; once this has failed it fails for good.

        A failed fdatasync(2) may have thrown away dirty pages, and the next one does not tell.

        Raises:
            ImageError: the disk failed, now or before.
            NoRoomError: the file system is full.
        """
        if self._lost:
            self.refuse(self._lost)
        try:
            with room_for(self.fd, 0):
                os.fdatasync(self.fd)
        except OSError as error:
            self._lost = f"it could not be made durable ({error.strerror}); resume it"
            raise ImageError(path=self.path, problem=self._lost) from error
        except NoRoomError:
            self._lost = "it could not be made durable, as there was no room; resume it"
            raise

    def refuse(self, problem: str) -> NoReturn:
        """Raise `ImageError` for this file."""
        raise ImageError(path=self.path, problem=problem)
