# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw images: the disk's bytes and nothing else. Also reads block devices.

Nothing in a raw file could say that it is unfinished, so only its name does (`NAME.partial`).
Everything is written in place; zeros are holes where the file system knows them.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from p2v.images._file import Syncer, pread_exact, punch, pwrite_all, room_for, stored
from p2v.images._partial import create_partial, publish, reopen, withdraw
from p2v.images.base import PARTIAL_SUFFIX, Buffer, partial_path
from p2v.model.errors import ImageError, ImageIncompleteError
from p2v.model.extent import Extent
from p2v.model.plan import ImageFormat

_BLKSSZGET = 0x1268  # linux/fs.h
_BLKGETSIZE64 = 0x80081272


class RawReader:
    """A raw image or a block device, opened for reading."""

    format = ImageFormat.RAW

    def __init__(self, fd: int, path: Path) -> None:
        self.path = path
        self.size, self.sector_size = _geometry(fd)
        self._fd = fd

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file or block device.

        Raises:
            ImageIncompleteError: its name says that it was never committed.
            ImageError: there is none, or it is neither file nor block device.
        """
        if path.name.endswith(PARTIAL_SUFFIX):
            raise ImageIncompleteError(path=path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise ImageError(path=path, problem="there is no such image") from None
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                raise ImageError(path=path, problem="it is neither a file nor a block device")
            return cls(fd, path)
        except BaseException:
            os.close(fd)
            raise

    def readinto(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on.

        Raises:
            ImageError: the range leaves the disk, or the file has become shorter.
        """
        view = memoryview(buffer).cast("B")
        self._check_range(offset, len(view))
        pread_exact(self._fd, offset, view)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """Yield the range's extents in order, without gaps; holes are zeros."""
        length = self.size - offset if length is None else length
        self._check_range(offset, length)
        position, end = offset, offset + length
        for start, stop in stored(self._fd, offset, length):
            if start > position:
                yield Extent(position, start - position, zero=True)
            yield Extent(start, stop - start)
            position = stop
        if position < end:
            yield Extent(position, end - position, zero=True)

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check_range(self, offset: int, length: int) -> None:
        """Refuse a range that leaves the disk."""
        if offset < 0 or length < 0 or offset + length > self.size:
            problem = f"{length} bytes at {offset} leave the disk of {self.size} bytes"
            raise ImageError(path=self.path, problem=problem)


class RawWriter(RawReader):
    """A raw image being written; every write goes to its final place."""

    def __init__(self, fd: int, path: Path) -> None:
        super().__init__(fd, path)
        self.partial = partial_path(path)
        self._syncer = Syncer(fd)
        self._finished = False

    @staticmethod
    def create(path: Path, size: int) -> RawWriter:
        """Create an empty, wholly sparse image of `size` bytes.

        Raises:
            ImageError: the image exists, or the file system holds no file of this size.
            NoRoomError: the file system is full.
        """
        if size <= 0:
            raise ImageError(path=path, problem=f"a disk of {size} bytes can't be written")
        fd = create_partial(path)
        try:
            with room_for(fd, size):
                os.truncate(fd, size)
                os.fsync(fd)
            return RawWriter(fd, path)
        except BaseException:
            partial_path(path).unlink()
            os.close(fd)
            raise

    @staticmethod
    def resume(path: Path) -> RawWriter:
        """Open an unfinished image, or a finished one for another pass.

        Raises:
            ImageError: there is none, or it is being written by somebody else.
        """
        fd = reopen(path)
        try:
            withdraw(path)
            return RawWriter(fd, path)
        except BaseException:
            os.close(fd)
            raise

    def write(self, offset: int, data: Buffer) -> None:
        """Store `data` at `offset`.

        Raises:
            NoRoomError: the file system is full; write again later.
            ImageError: the range leaves the disk.
        """
        view = memoryview(data).cast("B")
        self._check_write(offset, len(view))
        pwrite_all(self._fd, offset, view)

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros and give its room back."""
        self._check_write(offset, length)
        end = offset + length
        for start, stop in stored(self._fd, offset, length):
            punch(self._fd, start, min(stop, end) - start)

    def checkpoint(self) -> None:
        """Make durable all that was written before the call."""
        self._syncer.sync()

    def commit(self) -> None:
        """Finish the image: durable and under its final name.

        Raises:
            ImageError: an image of that name appeared meanwhile.
        """
        self._finished = True
        self._syncer.sync()
        publish(self.path)

    def _check_write(self, offset: int, length: int) -> None:
        """Refuse a range that leaves the disk, and any once the image is finished."""
        self._check_range(offset, length)
        if self._finished:
            raise ImageError(path=self.path, problem="it is committed; resume it to write more")


def _geometry(fd: int) -> tuple[int, int]:
    """Return (size, logical sector size) of a file or block device, in bytes."""
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        return status.st_size, 512
    size = struct.unpack("=Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
    return size, struct.unpack("=i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0]
