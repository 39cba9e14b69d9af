# SPDX-License-Identifier: GPL-3.0-or-later
"""The file under check: bounded reads, holes, and reading everything back."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from p2v.images.base import partial_path
from p2v.images.check.report import Findings
from p2v.model.errors import ImageError, ImageIncompleteError, NoSuchDiskError
from p2v.model.units import MiB

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

_PIECE = 4 * MiB


class Source:
    """An image file or block device, opened read-only.

    Raises:
        NoSuchDiskError: there is no such file, or it is neither a file nor a block device.
        ImageIncompleteError: only the partial file of such an image is there.
        ImageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            if partial_path(path).exists():
                raise ImageIncompleteError(path=partial_path(path)) from error
            raise NoSuchDiskError(disk=path) from error
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            raise ImageError(path=path, problem=f"cannot be opened: {problem}") from error
        status = os.fstat(self._fd)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            os.close(self._fd)
            raise NoSuchDiskError(disk=path)
        self.is_device = stat.S_ISBLK(status.st_mode)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        self.disk_usage = self.size if self.is_device else status.st_blocks * 512

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset` on; fewer only at the end of the file."""
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        data = os.pread(self._fd, end - offset, offset)
        while len(data) < end - offset:
            more = os.pread(self._fd, end - offset - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the ranges between `start` and `end` that are no holes."""
        while start < end:
            data = self._seek(start, os.SEEK_DATA, otherwise=end)
            if data >= end:
                return
            hole = min(self._seek(data, os.SEEK_HOLE, otherwise=self.size), end)
            yield data, hole - data
            start = hole

    def is_hole(self, offset: int, length: int) -> bool:
        """Return whether nothing of the range is stored."""
        return next(self.data_extents(offset, min(offset + length, self.size)), None) is None

    def _seek(self, offset: int, whence: int, otherwise: int) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return otherwise
            # A file system or device that knows nothing of holes has none.
            return offset if whence == os.SEEK_DATA else self.size


def require_images(paths: Iterable[Path]) -> None:
    """Open and close each, so that a mistyped name shows before hours have gone into the others.

    Raises:
        NoSuchDiskError: there is no such file.
        ImageError: it cannot be opened.
    """
    for path in paths:
        with Source(path):
            pass


def read_back(source: Source, findings: Findings, progress: Progress | None) -> None:
    """Read all that the file stores, so that what its disk has lost comes to light now."""
    for start, length in source.data_extents(0, source.size):
        for offset in range(start, start + length, _PIECE):
            piece = min(_PIECE, start + length - offset)
            try:
                source.read(offset, piece)
            except OSError as error:
                findings.error("unreadable", f"{piece} bytes: {error.strerror}", offset)
            if progress is not None:
                progress(offset + piece, source.size)
