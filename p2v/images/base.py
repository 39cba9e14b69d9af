# SPDX-License-Identifier: GPL-3.0-or-later
"""What every image format offers: one small protocol to read, one to write.

Reading and writing are thread-safe: sessions call `write` and `zero` from several threads at once,
in any order, and a range may be written again. No method keeps state whose size grows with the
disk; tables live in the file and the kernel's page cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from p2v.model.extent import Extent
from p2v.model.plan import ImageFormat

Buffer = bytes | bytearray | memoryview


class DiskReader(Protocol):
    """A finished image of any format, opened for reading as the disk that it holds."""

    path: Path
    size: int
    """Virtual size in bytes."""
    sector_size: int
    """Logical sector size in bytes."""

    def readinto(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on; absent blocks read as zeros.

        Raises:
            ImageError: the range leaves the disk, or the image is damaged there.
        """

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """Yield the range's extents in order, without gaps; `zero` where nothing is stored."""

    def close(self) -> None:
        """Release the file."""


class ImageReader(DiskReader, Protocol):
    """A finished image of a format that migrations write."""

    format: ImageFormat


class ImageWriter(ImageReader, Protocol):
    """An image being written. `path` is the final name; until `commit` the file is `partial`.

    The life of an image: `create` (or `resume` after a crash) -> `write`/`zero`, with a
    `checkpoint` now and then -> `commit`. What was written before a checkpoint survives a loss of
    power; what came after may be there, or not, or half: the caller writes it again. `resume`
    also opens a committed image for more passes; it is incomplete again until the next `commit`.
    """

    partial: Path

    def write(self, offset: int, data: Buffer) -> None:
        """Store `data` at `offset`.

        Raises:
            NoRoomError: the file system is full; the image stays consistent, write again later.
        """

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, without taking room where it can be helped."""

    def checkpoint(self) -> None:
        """Make durable all that was written before the call."""

    def commit(self) -> None:
        """Finish the image: durable, valid by its format, and under its final name. Atomic."""


@runtime_checkable
class StoresZstd(Protocol):
    """A writer that can keep a zstd frame as it is (compressed qcow2)."""

    def write_zstd(self, offset: int, length: int, frame: Buffer) -> bool:
        """Store the frame that decompresses to the `length` bytes at `offset`, byte for byte.

        Returns False, having done nothing, where the format can't hold this one; the caller then
        calls `write` with the decompressed bytes.
        """


PARTIAL_SUFFIX = ".partial"


def partial_path(path: Path) -> Path:
    """Return the name that an image has until it is committed."""
    return path.with_name(path.name + PARTIAL_SUFFIX)
