# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the disk in a VHDX file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from uuid import UUID

from p2v.images.c_vhdx import NO_ID
from p2v.images.vhdx_bat import Bat
from p2v.images.vhdx_layout import Layout, read_header, read_layout
from p2v.images.vhdx_log import replay
from p2v.images.vhdx_view import FileView
from p2v.model.errors import ImageError, ImageIncompleteError
from p2v.model.extent import Extent
from p2v.model.plan import ImageFormat

_ZEROS = memoryview(bytes(1 << 20))


class VhdxDisk:
    """The disk in an open VHDX file: what reader and writer share. Owns the view's descriptor."""

    format = ImageFormat.VHDX

    def __init__(self, path: Path, view: FileView, layout: Layout) -> None:
        self.path = path
        self.size = layout.disk.size
        self.sector_size = layout.disk.sector_size
        self.physical_sector_size = layout.disk.physical_sector_size
        self.block_size = layout.disk.block_size
        self.fixed = layout.disk.fixed
        self.disk_id: UUID = layout.disk.disk_id
        self.creator = layout.creator
        self._view = view
        self._layout = layout
        self._bat = Bat(view, layout)

    def readinto(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on; absent blocks read as zeros.

        Raises:
            ImageError: the range leaves the disk, or the image is damaged there.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        for block, start, length in self._pieces(offset, len(view)):
            part = view[done : done + length]
            position = self._bat.find(block)
            if position is None:
                _clear(part)
            else:
                self._view.readinto(position + start, part)
            done += length

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """Yield the range's extents in order, without gaps; `zero` where nothing is stored.

        Raises:
            ImageError: the range leaves the disk, or the image is damaged there.
        """
        end = self.size if length is None else offset + length
        self._check_range(offset, end - offset)
        start, zero = offset, None
        for block, absent in self._changes(offset // self.block_size, -(-end // self.block_size)):
            border = max(block * self.block_size, offset)
            if zero is not None and border > start:
                yield Extent(start, border - start, zero)
            start, zero = border, absent
        if zero is not None and end > start:
            yield Extent(start, end - start, zero)

    def close(self) -> None:
        """Release the file."""
        if self._view.fd >= 0:
            os.close(self._view.fd)
            self._view.fd = -1

    def _changes(self, first: int, last: int) -> Iterator[tuple[int, bool]]:
        """Yield each block from which on blocks are absent, or stored, unlike the one before."""
        before: bool | None = None
        for start, entries in self._bat.runs(first, last):
            if before is True and not any(entries):
                continue
            for block, entry in enumerate(entries, start):
                absent = entry == 0 or self._bat.place(block, entry) is None
                if absent is not before:
                    yield block, absent
                    before = absent

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (block, first byte in it, bytes) of the blocks that a range touches."""
        self._check_range(offset, length)
        end = offset + length
        while offset < end:
            block, start = divmod(offset, self.block_size)
            count = min(self.block_size - start, end - offset)
            yield block, start, count
            offset += count

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ImageError(
                path=self._view.path,
                problem=f"{length} bytes at {offset} leave the disk of {self.size} bytes",
            )


class VhdxReader(VhdxDisk):
    """A VHDX file opened for reading; a log that waits to be replayed is replayed in memory."""

    @classmethod
    def open(cls, path: Path, *, allow_incomplete: bool = False) -> Self:
        """Open the disk in the file `path`, without changing the file.

        Raises:
            ImageError: it is no VHDX file, damaged, or a differencing disk.
            ImageIncompleteError: it was never committed, and `allow_incomplete` is not given.
        """
        view = FileView(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
        try:
            _, header = read_header(view)
            if header.log_id != NO_ID:
                view = replay(view, header)
            layout = read_layout(view, header)
            if layout.disk.has_parent:
                view.refuse("it is a differencing disk; merge it into its parent, and read that")
            if layout.metadata.incomplete and not allow_incomplete:
                raise ImageIncompleteError(path=path)
        except BaseException:
            os.close(view.fd)
            raise
        return cls(path, view, layout)

    @property
    def incomplete(self) -> bool:
        """Whether the image was never committed."""
        return self._layout.metadata.incomplete


def _clear(buffer: memoryview) -> None:
    for start in range(0, len(buffer), len(_ZEROS)):
        part = buffer[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]
