# SPDX-License-Identifier: GPL-3.0-or-later
"""Open or create an image by its format; a format's module is loaded when it is first needed."""

from __future__ import annotations

import os
from pathlib import Path

from p2v.images._file import pread_some
from p2v.images.base import DiskReader, ImageReader, ImageWriter, partial_path
from p2v.model.errors import ImageError, ImageIncompleteError, UsageError
from p2v.model.plan import ImageFormat

_PROBE_BYTES = 512


def open_reader(path: Path, format: ImageFormat | None = None) -> ImageReader:  # noqa: A002
    """Open a finished image or a block device for reading.

    Without `format` the first bytes decide, and what no format claims is raw. Where the format is
    known, pass it: the first bytes of a raw disk belong to whoever wrote the disk.

    Raises:
        ImageIncompleteError: it was never committed.
        ImageError: there is none, or it is damaged or not supported.
    """
    if not path.exists():
        if partial_path(path).exists():
            raise ImageIncompleteError(path=partial_path(path))
        raise ImageError(path=path, problem="there is no such image")
    match format or probe(path):
        case ImageFormat.VHDX:
            from p2v.images.vhdx import VhdxReader

            return VhdxReader.open(path)
        case ImageFormat.QCOW2:
            from p2v.images.qcow2 import Qcow2Reader

            return Qcow2Reader.open(path)
        case ImageFormat.RAW:
            from p2v.images.raw import RawReader

            return RawReader.open(path)


def open_disk(path: Path) -> DiskReader:
    """Open a finished image of any format that is read, VMDK among them, or a block device.

    Raises:
        ImageIncompleteError: it was never committed.
        ImageError: there is none, or it is damaged or not supported.
    """
    if is_vmdk(path):
        from p2v.images.vmdk import VmdkReader

        return VmdkReader.open(path)
    return open_reader(path)


def is_vmdk(path: Path) -> bool:
    """Return whether there is a file that begins as a VMDK does."""
    from p2v.images import vmdk

    return path.is_file() and vmdk.detect(_head(path))


def create_writer(
    format: ImageFormat,  # noqa: A002
    path: Path,
    size: int,
    *,
    sector_size: int = 512,
    physical_sector_size: int = 4096,
    compressed: bool = False,
) -> ImageWriter:
    """Create an empty image of a disk of `size` bytes; nothing that exists is overwritten.

    `physical_sector_size` is kept by VHDX only. With `compressed`, which only qcow2 knows, the
    writer is also a `StoresZstd`.

    Raises:
        UsageError: the format can't be compressed.
        ImageError: the image exists, or the format can't hold this disk.
        NoRoomError: the file system is full.
    """
    if compressed and format is not ImageFormat.QCOW2:
        raise UsageError(problem=f"{format} images can't be compressed; only qcow2 ones can")
    match format:
        case ImageFormat.VHDX:
            from p2v.images.vhdx import VhdxWriter

            return VhdxWriter.create(
                path, size, sector_size=sector_size, physical_sector_size=physical_sector_size
            )
        case ImageFormat.QCOW2:
            from p2v.images.qcow2_writer import Qcow2Writer

            return Qcow2Writer.create(path, size, compressed=compressed, sector_size=sector_size)
        case ImageFormat.RAW:
            from p2v.images.raw import RawWriter

            return RawWriter.create(path, size)


def resume_writer(format: ImageFormat, path: Path) -> ImageWriter:  # noqa: A002
    """Open image `path`, unfinished or finished, for more writing from its last checkpoint on.

    Raises:
        ImageError: there is none, it is in use, or it is damaged.
    """
    match format:
        case ImageFormat.VHDX:
            from p2v.images.vhdx import VhdxWriter

            return VhdxWriter.resume(path)
        case ImageFormat.QCOW2:
            from p2v.images.qcow2_writer import Qcow2Writer

            return Qcow2Writer.resume(path)
        case ImageFormat.RAW:
            from p2v.images.raw import RawWriter

            return RawWriter.resume(path)


def probe(path: Path) -> ImageFormat:
    """Return the format that the file's first bytes show; raw where they show none."""
    from p2v.images import qcow2, vhdx

    if not path.is_file() and not path.is_block_device():
        raise ImageError(path=path, problem="it is neither a file nor a block device")
    start = _head(path)
    if vhdx.detect(start):
        return ImageFormat.VHDX
    return ImageFormat.QCOW2 if qcow2.detect(start) else ImageFormat.RAW


def _head(path: Path) -> bytes:
    """Return the file's first bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = bytearray(_PROBE_BYTES)
        return bytes(head[: pread_some(fd, 0, head)])
    finally:
        os.close(fd)
