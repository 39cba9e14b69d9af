# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring edits from overlays into the images, as one more pass, so that no crash can tear them.

Until the *journal* is there, an image is what was captured, whatever happens. The journal names
the overlays and what of them is to be copied; it is written when all of that is durable. From then
on the edits will be in the images: copying a range twice is harmless, so an interrupted copy
begins anew. The overlays and the journal go when everything is durable, the journal last.

Where a digest map lies beside an image it is kept true by its own rule: digests are forgotten
before their chunks are written, and recorded when these are durable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2v.guest.overlay import changed_extents, detach
from p2v.images.base import ImageReader, ImageWriter
from p2v.images.durable import sync_folder, write_durably
from p2v.images.open import open_reader, resume_writer
from p2v.model.document import decode, encode
from p2v.model.errors import ImageError, UsageError
from p2v.model.extent import Extent
from p2v.model.plan import ImageFormat
from p2v.model.units import MiB
from p2v.wire.chunk import CHUNK_SIZE, chunk_length, digest
from p2v.wire.digestmap import DigestMap

_PIECE = 4 * MiB

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EditedImage:
    """An image and the overlay that holds its edits."""

    image: str
    format: ImageFormat
    overlay: str
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Journal:
    """What a commit has to do. `report` is the conversion's, to be kept when it is done."""

    images: tuple[EditedImage, ...]
    report: dict[str, Any]

    @property
    def length(self) -> int:
        """Bytes of the disks that it changes."""
        return sum(extent.length for image in self.images for extent in image.extents)


def journal_path(image: Path) -> Path:
    """Return where the journal of a guest lies whose first disk is `image`."""
    return image.with_name(image.name + ".edits.journal")


def prepare(images: Sequence[tuple[Path, ImageFormat, Path]]) -> tuple[EditedImage, ...]:
    """Cut overlays off their images, durably; return what the journal needs of each."""
    edited = []
    for image, image_format, overlay in images:
        extents = tuple(changed_extents(overlay))
        detach(overlay)
        edited.append(EditedImage(str(image), image_format, str(overlay), extents))
    return tuple(edited)


def begin(path: Path, journal: Journal) -> None:
    """Write the journal, durably: from now on the edits will reach the images."""
    body = {"images": encode(journal.images), "report": journal.report}
    write_durably(path, json.dumps(body).encode())


def load(path: Path) -> Journal | None:
    """Read a journal; None where there is none.

    Raises:
        ImageError: it is damaged.
    """
    try:
        body = json.loads(path.read_bytes())
        images = [decode(EditedImage, one, "journal") for one in body["images"]]
        return Journal(tuple(images), body["report"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, UsageError) as error:
        raise ImageError(path=path, problem=f"it is no journal of a conversion: {error}") from None


def finish(path: Path, journal: Journal, progress: Progress | None = None) -> None:
    """Copy the edits into the images and forget the journal; harmless if done before.

    Raises:
        NoRoomError: the store is full; call it again when there is room.
        ImageError: an image or overlay is damaged, or somebody else writes the image.
    """
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, journal.length)

    for edited in journal.images:
        if Path(edited.overlay).exists():
            _copy(edited, advance)
    for edited in journal.images:
        Path(edited.overlay).unlink(missing_ok=True)
    sync_folder(path.parent)


def end(path: Path) -> None:
    """Forget the journal, durably."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def _copy(edited: EditedImage, advance: Callable[[int], None]) -> None:
    image = Path(edited.image)
    with (
        closing(open_reader(Path(edited.overlay), ImageFormat.QCOW2)) as overlay,
        closing(resume_writer(edited.format, image)) as writer,
    ):
        digests = _DigestKeeper(image, edited.extents)
        try:
            digests.forget()
            for extent in edited.extents:
                _copy_extent(overlay, writer, extent)
                advance(extent.length)
            writer.checkpoint()
            digests.record(writer)
        finally:
            digests.close()
        writer.commit()


def _copy_extent(overlay: ImageReader, writer: ImageWriter, extent: Extent) -> None:
    end = min(extent.end, writer.size)  # an overlay is whole sectors, and may be longer
    if extent.zero:
        writer.zero(extent.offset, end - extent.offset)
        return
    buffer = bytearray(_PIECE)
    for offset in range(extent.offset, end, _PIECE):
        piece = memoryview(buffer)[: min(_PIECE, end - offset)]
        overlay.readinto(offset, piece)
        writer.write(offset, piece)


class _DigestKeeper:
    """Keeps the digest map beside an image true while ranges of the image change."""

    def __init__(self, image: Path, extents: Sequence[Extent]) -> None:
        path = image.with_name(image.name + ".digests")
        self._map = DigestMap.open(path) if path.exists() else None
        self._extents = extents

    def forget(self) -> None:
        """Make the chunks of the extents unknown, durably."""
        if self._map is None:
            return
        for first, count in self._chunks():
            self._map.forget(first, count)
        self._map.sync()

    def record(self, image: ImageReader) -> None:
        """Record the digests of what the image now holds there, which is durable."""
        if self._map is None:
            return
        buffer = bytearray(CHUNK_SIZE)
        for first, count in self._chunks():
            for index in range(first, first + count):
                view = memoryview(buffer)[: chunk_length(index, self._map.size)]
                image.readinto(index * CHUNK_SIZE, view)
                self._map.record([(index, digest(view))])
        self._map.sync()

    def close(self) -> None:
        """Close the map."""
        if self._map is not None:
            self._map.close()

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Yield runs of chunks, as (first, count), that the extents touch."""
        size = self._map.size if self._map is not None else 0
        for extent in self._extents:
            first = extent.offset // CHUNK_SIZE
            stop = -(-min(extent.end, size) // CHUNK_SIZE)
            yield first, stop - first
