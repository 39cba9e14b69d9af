# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole reads and writes at an offset, room, holes and durable names: what all formats share.

The kernel may move fewer bytes than asked for; these functions move all of them or raise. A full
file system is a `NoRoomError` everywhere. Nothing here uses the file's position (only `lseek` moves
it, and nobody reads it), so one descriptor serves many threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2v.images.base import Buffer
from p2v.model.errors import ImageError, NoRoomError

_KEEP_SIZE = 0x01  # linux/falloc.h
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ZEROS = bytes(1 << 20)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def file_path(fd: int) -> str:
    """Return the name behind a descriptor, for messages."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return f"descriptor {fd}"


@contextmanager
def room_for(fd: int, needed: int) -> Iterator[None]:
    """Turn the kernel's "no space" and "over quota" into `NoRoomError`.

    Raises:
        NoRoomError: `needed` more bytes did not fit.
        ImageError: more room would not help, the file system holds no file so large.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoRoomError(path=file_path(fd), needed=needed) from error
        if error.errno == errno.EFBIG:
            problem = "its file system holds no file so large (ext4: 16 TiB); use another, like XFS"
            raise ImageError(path=file_path(fd), problem=problem) from error
        raise


def pread_exact(fd: int, offset: int, buffer: bytearray | memoryview) -> None:
    """Fill `buffer` with the file's bytes from `offset` on.

    Raises:
        ImageError: the file ends before the buffer is full.
    """
    done = pread_some(fd, offset, buffer)
    if done < len(buffer):
        raise ImageError(
            path=file_path(fd),
            problem=f"the file ends at byte {offset + done}, "
            f"before the {len(buffer)} bytes expected at {offset}",
        )


def pread_some(fd: int, offset: int, buffer: bytearray | memoryview) -> int:
    """Fill `buffer` as far as the file goes; return the bytes read."""
    view = memoryview(buffer)
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def pwrite_all(fd: int, offset: int, data: Buffer) -> None:
    """Write all of `data` at `offset`.

    Raises:
        NoRoomError: the file system is full; a part may have been written.
    """
    view = memoryview(data).cast("B")
    done = 0
    with room_for(fd, len(view)):
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write `length` real zeros at `offset`: the range is stored, not a hole."""
    zeros = memoryview(_ZEROS)
    end = offset + length
    while offset < end:
        step = min(len(zeros), end - offset)
        pwrite_all(fd, offset, zeros[:step])
        offset += step


def allocate(fd: int, offset: int, length: int) -> None:
    """Reserve room for the range and extend the file over it; new parts read as zeros.

    Where the file system cannot reserve, the file is only extended.

    Raises:
        NoRoomError: the file system is full.
    """
    if length == 0 or _fallocate(fd, 0, offset, length):
        return
    if os.fstat(fd).st_size < offset + length:
        os.truncate(fd, offset + length)


def zero_range(fd: int, offset: int, length: int) -> None:
    """Make the range read as zeros and keep its room; the file grows over it if need be."""
    if length and not _fallocate(fd, _ZERO_RANGE, offset, length):
        write_zeros(fd, offset, length)


def punch(fd: int, offset: int, length: int) -> None:
    """Make the range, which lies within the file, read as zeros and give its room back.

    Where the file system knows no holes, zeros are written.
    """
    if length and not _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        write_zeros(fd, offset, length)


def stored(fd: int, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the range's parts that are no holes, in order.

    A file system that cannot tell says that everything is stored.
    """
    end = offset + length
    while offset < end:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno not in _UNSUPPORTED:
                raise
            yield offset, end
            return
        if start >= end:
            return
        offset = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        yield start, offset


def fill_holes(fd: int, offset: int, length: int) -> None:
    """Write zeros into every hole of the range, so that the file is not sparse there.

    Preallocated room that was never written counts as a hole: a copy would be sparse there.
    """
    position, end = offset, offset + length
    for start, stop in stored(fd, offset, length):
        write_zeros(fd, position, start - position)
        position = stop
    write_zeros(fd, position, end - position)


class Syncer:
    """Makes a file's content durable, and never again says so after it once failed.

    After a failed fdatasync the kernel drops what it could not write and forgets the error: a
    second call would succeed and mean nothing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._failed = False

    def sync(self) -> None:
        """Make durable all that was written.

        Raises:
            NoRoomError: the file system noticed only now that it is full.
            ImageError: an earlier call failed; only reopening the file shows what it holds.
        """
        if self._failed:
            problem = "its disk lost writes; resume the image from its last checkpoint"
            raise ImageError(path=file_path(self._fd), problem=problem)
        try:
            with room_for(self._fd, 0):
                os.fdatasync(self._fd)
        except BaseException:
            self._failed = True
            raise


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    """Call fallocate(2); return False where the file system does not know the mode."""
    with room_for(fd, length):
        while _libc.fallocate64(fd, mode, offset, length) != 0:
            number = ctypes.get_errno()
            if number in _UNSUPPORTED:
                return False
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number), file_path(fd))
    return True
