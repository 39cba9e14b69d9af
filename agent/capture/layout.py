# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do with every chunk of a disk: read it, know it to be zeros, or know its bytes.

`prepare` asks the disk (maps, swap headers); the walk over the chunks that follows is pure. All
that no partition treats otherwise is read: tables, boot areas, gaps, the table's copy at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from mmap import mmap

from agent.capture.allocation import Allocation, used_extents
from agent.capture.chunkset import ChunkSet
from agent.capture.logical import Logical, read_held
from agent.capture.source import Source
from agent.capture.swap import HEADER_MAX, SwapHeaderError, swap_header, swap_info
from agent.inventory.volume.window import VolumeDamagedError
from p2v.model.extent import Extent
from p2v.model.machine import ContentKind
from p2v.model.plan import PlannedDisk, PlannedPartition, Treatment
from p2v.wire.chunk import CHUNK_SIZE


class Kind(StrEnum):
    """Where the bytes of a piece come from."""

    READ = "read"
    ZERO = "zero"
    LITERAL = "literal"


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole chunks (the disk's last may be cut) that are treated alike.

    Attributes:
        reason: of a ZERO: "free", "swap" or "excluded".
        data: all bytes of a LITERAL.
        blank: ranges of a READ (disk offsets) that must not be copied: they become zeros.
        overlay: offset and bytes that replace what is read, after blanking.
    """

    offset: int
    length: int
    kind: Kind
    reason: str = ""
    data: bytes = b""
    blank: tuple[Extent, ...] = ()
    overlay: tuple[tuple[int, bytes], ...] = ()

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length

    def apply(self, offset: int, buffer: bytearray | memoryview | mmap) -> None:
        """Blank and overlay `buffer`, which holds the disk's bytes from `offset` on."""
        for extent in self.blank:
            _paste(buffer, offset, extent.offset, bytes(extent.length))
        for at, data in self.overlay:
            _paste(buffer, offset, at, data)


def _paste(buffer: bytearray | memoryview | mmap, offset: int, at: int, data: bytes) -> None:
    start, end = max(at, offset), min(at + len(data), offset + len(buffer))
    if start < end:
        buffer[start - offset : end - offset] = data[start - at : end - at]


@dataclass(frozen=True, slots=True)
class Region:
    """A range that is not simply read.

    `used` holds the chunks in use, None where all of it becomes zeros but for `header`.
    """

    offset: int
    length: int
    reason: str
    used: ChunkSet | None = None
    header: bytes = b""

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Layout:
    """A disk's regions in order, and what came out differently from the plan, in words."""

    size: int
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()

    def pieces(self) -> Iterator[Piece]:
        """Yield the disk's pieces in ascending order, without gaps."""
        return _pieces(self)

    def copied(self) -> int:
        """Return the bytes of the pieces that are not ZERO: what there is to do."""
        return sum(piece.length for piece in self.pieces() if piece.kind is not Kind.ZERO)


def disk_extents(disk: PlannedDisk, source: Source, all_blocks: bool = False) -> Iterator[Piece]:
    """Yield what to do with every chunk of `disk`, in ascending order, without gaps."""
    return prepare(disk, source, all_blocks).pieces()


def prepare(
    disk: PlannedDisk,
    source: Source,
    all_blocks: bool = False,
    settled: Collection[tuple[int, int]] = (),
) -> Layout:
    """Read allocation maps and swap headers, and return the disk's layout.

    The file systems on the devices `settled` were frozen since the disk's changes are tracked: see
    `used_extents`.
    A file system whose map cannot be trusted, and a swap whose header makes no sense, are copied
    whole; `notes` says so. With `all_blocks` only excluded partitions are not copied.

    Raises:
        SourceChangedError: the disk has not the plan's size.
    """
    source.check(disk.size)
    regions: list[Region] = []
    notes: list[str] = []
    for partition in sorted(disk.partitions, key=lambda p: p.start):
        found, said = _regions(partition, source, all_blocks, settled)
        regions += found
        notes += [f"{_name(disk, partition)}: {note}" for note in said]
    return Layout(disk.size, tuple(regions), tuple(notes))


def _name(disk: PlannedDisk, partition: PlannedPartition) -> str:
    number = f" partition {partition.number}" if partition.number else ""
    return partition.name or f"{disk.name}{number}"


_Found = tuple[list[Region], list[str]]
"""Regions in order, and notes."""


def _regions(
    partition: PlannedPartition,
    source: Source,
    all_blocks: bool,
    settled: Collection[tuple[int, int]],
) -> _Found:
    start, size = partition.start, partition.size
    if partition.treatment is Treatment.EXCLUDE:
        return [Region(start, size, "excluded")], []
    if all_blocks or partition.treatment is Treatment.COPY:
        return [], []
    if partition.treatment is Treatment.SWAP:
        return _swap(start, size, source)
    if partition.content == ContentKind.LVM:
        return _physical_volume(start, size, source, settled)
    return _used(used_extents(source.path, start, size, partition.content, settled))


def _used(allocation: Allocation) -> _Found:
    if allocation.chunks is None:
        return [], [f"every block is copied: {allocation.reason}"]
    return [Region(allocation.offset, allocation.size, "free", allocation.chunks)], []


def _swap(start: int, size: int, source: Source) -> _Found:
    first = bytearray(min(HEADER_MAX, size))
    source.readinto(start, first)
    try:
        header, info = swap_header(bytes(first)), swap_info(bytes(first))
    except SwapHeaderError as error:
        return [], [f"every block is copied: {str(error).rstrip('.')}"]
    notes = ["it holds a hibernation image, which is not copied"] if info.suspended else []
    return [Region(start, size, "swap", header=header)], notes


def _physical_volume(
    start: int, size: int, source: Source, settled: Collection[tuple[int, int]]
) -> _Found:
    """Return the regions of LVM's free extents, and those of the file systems in its volumes."""
    try:
        held = read_held(source.path, start, size)
    except VolumeDamagedError as error:
        return [], [f"every block is copied: {str(error).rstrip('.')}"]
    except OSError as error:
        return [], [f"every block is copied: it cannot be read: {error.strerror}"]
    regions = [Region(e.offset, e.length, "free", ChunkSet(e.offset, e.length)) for e in held.free]
    notes = []
    for volume in held.volumes:
        found, said = _logical_volume(volume, source, settled)
        regions += found
        notes += [f"{volume.name}: {note}" for note in said]
    return sorted(regions, key=lambda region: region.offset), notes


def _logical_volume(
    volume: Logical, source: Source, settled: Collection[tuple[int, int]]
) -> _Found:
    if volume.content == ContentKind.SWAP and volume.whole:
        return _swap(volume.segments[0].offset, volume.size, source)
    found = [_used(allocation) for allocation in volume.used(source.path, settled)]
    notes = dict.fromkeys(note for _, said in found for note in said)
    return [region for regions, _ in found for region in regions], [*notes]


# --- the walk ------------------------------------------------------------------------------------


def _pieces(layout: Layout) -> Iterator[Piece]:
    edges = edges_of(layout)
    at = 0
    for region in layout.regions:
        first, last = inner(region, layout.size)
        if first >= last:
            continue
        yield from read_pieces(at, first, layout.size, edges)
        yield from _walk(region, first, last, layout.size)
        at = last
    yield from read_pieces(at, chunks_of(layout.size), layout.size, edges)


def chunks_of(size: int) -> int:
    """Return how many chunks `size` bytes touch from the disk's start on."""
    return -(-size // CHUNK_SIZE)


def inner(region: Region, size: int) -> tuple[int, int]:
    """Return the chunks that lie wholly within the region, as a half-open range."""
    end = chunks_of(size) if region.end >= size else region.end // CHUNK_SIZE
    return -(-region.offset // CHUNK_SIZE), end


def _walk(region: Region, first: int, last: int, size: int) -> Iterator[Piece]:
    if region.used is None:
        yield from _walk_blank(region, first, last, size)
        return
    at = first
    for run, count in region.used.runs():
        start, end = max(run, first), min(run + count, last)
        if start >= end:
            continue
        if at < start:
            yield _piece(at, start, size, Kind.ZERO, region.reason)
        yield _piece(start, end, size, Kind.READ)
        at = end
    if at < last:
        yield _piece(at, last, size, Kind.ZERO, region.reason)


def _walk_blank(region: Region, first: int, last: int, size: int) -> Iterator[Piece]:
    """Yield the chunks that hold a part of the header as literals, the others as zeros."""
    at = first
    header_end = chunks_of(region.offset + len(region.header)) if region.header else first
    while at < min(header_end, last):
        piece = _piece(at, at + 1, size, Kind.LITERAL, region.reason)
        data = bytearray(piece.length)
        _paste(data, piece.offset, region.offset, region.header)
        yield Piece(piece.offset, piece.length, Kind.LITERAL, region.reason, bytes(data))
        at += 1
    if at < last:
        yield _piece(at, last, size, Kind.ZERO, region.reason)


def _piece(first: int, last: int, size: int, kind: Kind, reason: str = "") -> Piece:
    offset = first * CHUNK_SIZE
    return Piece(offset, min(last * CHUNK_SIZE, size) - offset, kind, reason)


def edges_of(layout: Layout) -> dict[int, tuple[Region, ...]]:
    """Return the blank regions that cover a part only of a chunk, by chunk: two each at most."""
    edges: dict[int, tuple[Region, ...]] = {}
    for region in layout.regions:
        if region.used is not None:
            continue
        first, last = inner(region, layout.size)
        for chunk in {region.offset // CHUNK_SIZE, (region.end - 1) // CHUNK_SIZE}:
            if not first <= chunk < last:
                edges[chunk] = (*edges.get(chunk, ()), region)
    return edges


def read_pieces(
    first: int, last: int, size: int, edges: dict[int, tuple[Region, ...]]
) -> Iterator[Piece]:
    """Yield the chunks from `first` to `last` as READ; those at a blank region's edge blanked."""
    at = first
    for chunk in sorted(chunk for chunk in edges if first <= chunk < last):
        if at < chunk:
            yield _piece(at, chunk, size, Kind.READ)
        yield _edge(_piece(chunk, chunk + 1, size, Kind.READ), edges[chunk])
        at = chunk + 1
    if at < last:
        yield _piece(at, last, size, Kind.READ)


def _edge(piece: Piece, regions: tuple[Region, ...]) -> Piece:
    blank, overlay = [], []
    for region in regions:
        start, end = max(region.offset, piece.offset), min(region.end, piece.end)
        blank.append(Extent(start, end - start))
        if region.header and region.offset + len(region.header) > piece.offset:
            overlay.append((region.offset, region.header))
    return Piece(piece.offset, piece.length, Kind.READ, blank=tuple(blank), overlay=tuple(overlay))
