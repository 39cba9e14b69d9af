# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies a disk from one image into another, format by format; zeros are not stored."""

from __future__ import annotations

from collections.abc import Callable

from p2v.images.base import DiskReader, ImageWriter
from p2v.model.units import MiB

PIECE = 4 * MiB
_GRAIN = 64 * 1024
_CHECKPOINT = 1024 * MiB
_ZEROS = bytes(PIECE)


def copy_disk(
    reader: DiskReader, writer: ImageWriter, progress: Callable[[int, int], None]
) -> None:
    """Write the reader's disk into an empty image, and commit it.

    `progress` is called with the bytes done and the bytes in all. Memory: one piece.

    Raises:
        ImageError: the reader's image is damaged.
        NoRoomError: there is no room for the image.
    """
    buffer = memoryview(bytearray(PIECE))
    since = 0
    for extent in reader.extents():
        if extent.zero:
            continue
        for at in range(extent.offset, extent.end, PIECE):
            view = buffer[: min(PIECE, extent.end - at)]
            reader.readinto(at, view)
            _write(writer, at, view)
            progress(at + len(view), reader.size)
            since += len(view)
            if since >= _CHECKPOINT:
                writer.checkpoint()
                since = 0
    writer.commit()
    progress(reader.size, reader.size)


def _write(writer: ImageWriter, offset: int, view: memoryview) -> None:
    """Write what is not zeros, joined to runs."""
    begin = None
    for at in range(0, len(view), _GRAIN):
        piece = view[at : at + _GRAIN]
        zeros = piece == _ZEROS[: len(piece)]
        if zeros and begin is not None:
            writer.write(offset + begin, view[begin:at])
            begin = None
        elif not zeros and begin is None:
            begin = at
    if begin is not None:
        writer.write(offset + begin, view[begin:])
