# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk being read: straight from the medium, and to the end even where the medium fails.

Sectors that cannot be read become zeros and are recorded; everything that can be read around them
is. Reads bypass the page cache: what it holds of a disk may be stale, and filling it with a
terabyte would slow the server down.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from agent.capture.bad import BadRanges
from agent.device import drop_cache, geometry, resolve
from agent.mounts import writers_of
from p2v.model.errors import DiskInUseError, DiskUnreadableError, SourceChangedError
from p2v.model.units import MiB

# What the block layer makes of an unreadable medium (blk_errors in block/blk-core.c): I/O error,
# medium error, protection error, target failure.
_MEDIUM = (errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO)
_GONE = (errno.ENXIO, errno.ENODEV, errno.ENOENT, errno.ESTALE)
_NO_HOLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_BOUNCE = MiB


class Source:
    """A block device or image file, open for reading; safe for several threads.

    Attributes:
        path: the device or file.
        size: bytes, whole sectors. What an image file lacks of its last sector reads as zeros.
        logical_sector: bytes.
        physical_sector: bytes.
        direct: whether reads bypass the page cache.
        bad: what could not be read, and is zeros instead.
    """

    def __init__(self, name: str | Path, *, live: bool = False) -> None:
        """Open the disk `name` (``sda``, ``/dev/loop0``, ``disk.img``).

        Raises:
            NoSuchDiskError: it is no block device or file.
            DiskUnreadableError: it cannot be opened.
            DiskInUseError: something writes to it, and it is not `live`.
        """
        self.path = resolve(str(name))
        if not live and (writers := writers_of(self.path)):
            raise DiskInUseError(disk=str(name), problem="; ".join(writers))
        self._fd, self.direct = _open(self.path)
        found = geometry(self._fd)
        self.size = found.size
        self.logical_sector = found.logical_sector
        self.physical_sector = found.physical_sector
        self._block = found.block
        self._real_size = found.size if found.block else os.fstat(self._fd).st_size
        self._align = max(found.logical_sector, mmap.PAGESIZE)
        self._bounce: mmap.mmap | None = None
        self._bounce_lock = threading.Lock()
        self.bad = BadRanges()
        drop_cache(self._fd)

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the disk."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._bounce is not None:
            self._bounce.close()
            self._bounce = None

    def check(self, size: int) -> None:
        """Make sure that the disk still has `size` bytes.

        Raises:
            SourceChangedError: it has another size, or is gone.
        """
        try:
            now = geometry(self._fd).size
        except OSError as error:
            raise self._changed(error.strerror or "it is gone") from error
        if now != size:
            raise self._changed(f"it has {now} bytes, not {size}")

    def readinto(self, offset: int, buffer: bytearray | memoryview | mmap.mmap) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on.

        Page-aligned buffers (mmap) and whole sectors are read in place; anything else goes through
        a small aligned buffer. Unreadable sectors become zeros and are recorded in `bad`.

        Raises:
            SourceChangedError: the disk has shrunk or is gone.
            ValueError: the range leaves the disk.
        """
        with memoryview(buffer).cast("B") as view:
            if offset < 0 or offset + len(view) > self.size:
                raise ValueError(f"{len(view)} bytes at {offset} leave the disk of {self.size}")
            present = max(0, min(len(view), self._real_size - offset))
            with view[:present] as stored:
                self._fill(offset, stored)
            view[present:] = bytes(len(view) - present)

    def stored(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the parts of a range that are no holes, in order.

        A block device, and a file system that cannot tell, say that everything is stored.
        """
        end = offset + length
        while offset < end:
            start = offset if self._block else self._seek(offset, os.SEEK_DATA, end)
            if start >= end:
                return
            offset = end if self._block else min(end, self._seek(start, os.SEEK_HOLE, end))
            yield start, offset

    def _seek(self, offset: int, whence: int, end: int) -> int:
        """Return where the file's next data or hole begins, `end` where there is none."""
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end
            if error.errno in _NO_HOLES:
                return offset if whence == os.SEEK_DATA else end
            raise

    def _fill(self, offset: int, view: memoryview) -> None:
        """Read in halves after an error, down to a sector, so that one bad sector costs little."""
        try:
            self._read(offset, view)
        except OSError as error:
            if error.errno in _GONE:
                raise self._changed(error.strerror or "it is gone") from error
            if error.errno not in _MEDIUM:
                raise
            self.check(self.size)  # a disk that was pulled out fails every read with EIO
            sector = self.logical_sector
            if len(view) <= sector:
                view[:] = bytes(len(view))
                self.bad.add(offset, len(view))
                return
            middle = -(-(offset + len(view) // 2) // sector) * sector - offset
            if middle >= len(view):  # a piece of two sectors, neither whole
                middle = sector - offset % sector
            self._fill(offset, view[:middle])
            self._fill(offset + middle, view[middle:])

    def _read(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            if (offset + done) % self.logical_sector:
                self._read_bounced(offset + done, view[done:])
                return
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not self.direct:
                    raise
                self._read_bounced(offset + done, view[done:])
                return
            if not count:
                raise self._changed(f"it ends at byte {offset + done}")
            done += count

    def _read_bounced(self, offset: int, view: memoryview) -> None:
        """Read what is not aligned for O_DIRECT: around it, into an aligned buffer."""
        with self._bounce_lock:
            if self._bounce is None:
                self._bounce = mmap.mmap(-1, _BOUNCE + 2 * self._align)
            bounce = self._bounce
            done = 0
            while done < len(view):
                start = (offset + done) // self._align * self._align
                skip = offset + done - start
                want = min(len(view) - done, _BOUNCE)
                span = -(-(skip + want) // self._align) * self._align
                with memoryview(bounce) as whole, whole[:span] as part:
                    count = os.preadv(self._fd, [part], start) - skip
                    if count <= 0:
                        raise self._changed(f"it ends at byte {offset + done}")
                    take = min(count, want)
                    view[done : done + take] = part[skip : skip + take]
                done += take

    def _changed(self, problem: str) -> SourceChangedError:
        return SourceChangedError(disk=str(self.path), problem=problem)


def _open(path: Path) -> tuple[int, bool]:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems know no O_DIRECT
            raise _unreadable(path, error) from error
    try:
        return os.open(path, flags), False
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DiskUnreadableError:
    return DiskUnreadableError(disk=path, problem=error.strerror)
