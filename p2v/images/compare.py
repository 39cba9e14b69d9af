# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares two disks byte by byte, whatever format each is in.

What both sides know to be zeros is not read. Memory: two pieces, and a bounded list of ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from p2v.images.base import DiskReader
from p2v.images.open import open_disk
from p2v.model.errors import ImageError
from p2v.model.extent import Extent
from p2v.model.units import MiB

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

PIECE = 4 * MiB
GRAIN = 4096
"""Differences are told apart down to this many bytes."""
KEPT_RANGES = 256

_ZEROS = bytes(PIECE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome; everything but the counts is in bytes.

    `ranges` are the first `KEPT_RANGES` of the `count` ranges that differ, merged and rounded
    outward to `GRAIN`; `differing` is the length of all of them. `skipped` are zeros on both sides
    that nobody had to read. Where the sizes differ, the longer disk's rest is held against zeros.
    """

    size_a: int
    size_b: int
    compared: int
    skipped: int
    ignored: int
    differing: int
    count: int
    ranges: tuple[Extent, ...]

    @property
    def same(self) -> bool:
        """Whether the disks have the same contents, zeros at the longer one's end aside."""
        return not self.count


@dataclass(slots=True)
class _Segment:
    """A range in which each side is either stored or zeros throughout."""

    offset: int
    length: int
    zero_a: bool
    zero_b: bool


def compare_images(
    a: Path, b: Path, progress: Progress | None = None, ignore: Iterable[Extent] = ()
) -> Comparison:
    """Compare the disks that two images or block devices hold, leaving out the ranges `ignore`.

    Raises:
        NoSuchDiskError: there is no such file.
        ImageError: an image is damaged, incomplete, or cannot be read.
    """
    with closing(open_disk(a)) as one, closing(open_disk(b)) as other:
        return compare_readers(one, other, progress, ignore)


def compare_readers(
    a: DiskReader, b: DiskReader, progress: Progress | None = None, ignore: Iterable[Extent] = ()
) -> Comparison:
    """Compare two open disks as `compare_images` does."""
    total = max(a.size, b.size)
    differences = _Differences()
    compared = skipped = done = 0
    with _Pair(a, b) as pair:
        for gap, segment in _without(_segments(a, b, total), merge(ignore)):
            done += gap
            if segment.zero_a and segment.zero_b:
                skipped += segment.length
                done += segment.length
            else:
                for start in range(segment.offset, segment.offset + segment.length, PIECE):
                    length = min(PIECE, segment.offset + segment.length - start)
                    pair.compare(start, length, segment, differences)
                    compared += length
                    done += length
                    if progress is not None:
                        progress(done, total)
    if progress is not None:
        progress(total, total)
    return Comparison(
        size_a=a.size,
        size_b=b.size,
        compared=compared,
        skipped=skipped,
        ignored=total - compared - skipped,
        differing=differences.length,
        count=differences.count,
        ranges=tuple(differences.kept),
    )


def merge(ranges: Iterable[Extent]) -> list[Extent]:
    """Return the ranges in order, those that touch or overlap as one."""
    merged: list[Extent] = []
    for extent in sorted(ranges):
        if merged and extent.offset <= merged[-1].end:
            last = merged.pop()
            extent = Extent(last.offset, max(last.end, extent.end) - last.offset)
        merged.append(extent)
    return merged


class _Pair:
    """Both sides with a buffer each; side B is read by a thread of its own."""

    def __init__(self, a: DiskReader, b: DiskReader) -> None:
        self._a, self._b = a, b
        self._piece_a = memoryview(bytearray(PIECE))
        self._piece_b = memoryview(bytearray(PIECE))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compare-b")

    def __enter__(self) -> _Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def compare(
        self, offset: int, length: int, segment: _Segment, differences: _Differences
    ) -> None:
        """Compare one piece and record what differs."""
        piece_b = self._piece_b[:length]
        future = None
        if not segment.zero_b:
            future = self._thread.submit(_fill, self._b, offset, piece_b)
        if segment.zero_a:
            piece_a = memoryview(_ZEROS)[:length]
        else:
            piece_a = self._piece_a[:length]
            _fill(self._a, offset, piece_a)
        if future is None:
            piece_b = memoryview(_ZEROS)[:length]
        else:
            future.result()
        # A comparison of memoryviews goes item by item; of bytes, through memcmp.
        if bytes(piece_a) != piece_b.tobytes():
            differences.find(offset, bytes(piece_a), bytes(piece_b))


def _fill(reader: DiskReader, offset: int, piece: memoryview) -> None:
    try:
        reader.readinto(offset, piece)
    except OSError as error:
        problem = f"{len(piece)} bytes from byte {offset} on cannot be read: {error.strerror}"
        raise ImageError(path=reader.path, problem=problem) from error


class _Differences:
    """Ranges that differ, merged as they come, of which the first few are kept."""

    def __init__(self) -> None:
        self.kept: list[Extent] = []
        self.count = 0
        self.length = 0
        self._end = -1

    def find(self, offset: int, a: bytes, b: bytes) -> None:
        """Record the grains in which `a` and `b` differ; `offset` is theirs on the disk."""
        for start in range(0, len(a), GRAIN):
            if a[start : start + GRAIN] != b[start : start + GRAIN]:
                self._add(offset + start, min(GRAIN, len(a) - start))

    def _add(self, offset: int, length: int) -> None:
        self.length += length
        if offset != self._end:
            self.count += 1
            if self.count <= KEPT_RANGES:
                self.kept.append(Extent(offset, length))
        elif self.count <= KEPT_RANGES:
            self.kept[-1] = Extent(self.kept[-1].offset, self.kept[-1].length + length)
        self._end = offset + length


def _segments(a: DiskReader, b: DiskReader, total: int) -> Iterator[_Segment]:
    """Yield the whole disk as segments; what lies beyond the end of a side is zeros of it."""
    side_a, side_b = _padded(a, total), _padded(b, total)
    one, other = next(side_a, None), next(side_b, None)
    at = 0
    while one is not None and other is not None:
        end = min(one.end, other.end)
        yield _Segment(at, end - at, one.zero, other.zero)
        at = end
        one = next(side_a, None) if one.end == at else one
        other = next(side_b, None) if other.end == at else other


def _padded(reader: DiskReader, total: int) -> Iterator[Extent]:
    for extent in reader.extents():
        if extent.length:
            yield extent
    if reader.size < total:
        yield Extent(reader.size, total - reader.size, zero=True)


def _without(
    segments: Iterator[_Segment], ignore: Sequence[Extent]
) -> Iterator[tuple[int, _Segment]]:
    """Yield the segments cut around the ignored ranges, each with the bytes ignored before it."""
    index = 0
    ignored = 0
    for segment in segments:
        at, end = segment.offset, segment.offset + segment.length
        while at < end:
            while index < len(ignore) and ignore[index].end <= at:
                index += 1
            hidden = ignore[index] if index < len(ignore) else Extent(end, 0)
            stop = min(max(hidden.offset, at), end)
            if stop > at:
                yield ignored, _Segment(at, stop - at, segment.zero_a, segment.zero_b)
                ignored = 0
            at = min(max(hidden.end, stop), end) if hidden.offset < end else end
            ignored += at - stop
