# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk as it was when snapshots of its LVM volumes were made.

What lies in a volume is read from its snapshot, LVM's own metadata is that from before there were
snapshots, and extents that no volume has read as zeros. What is beside LVM is read where it is.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from agent.capture.snapshots import Snapshots
from agent.capture.source import Source
from agent.capture.volumes import Part


class SnapshotSource(Source):
    """A disk of which `parts` are elsewhere."""

    def __init__(
        self,
        name: str | Path,
        parts: Sequence[Part],
        kept: Mapping[int, bytes],
        snapshots: Snapshots,
    ) -> None:
        """Open the disk and the snapshots.

        `kept` holds the bytes of the parts that were read before the snapshots were made, by
        their offsets.
        """
        super().__init__(name, live=True)
        self._parts = tuple(parts)
        self._starts = [part.offset for part in parts]
        self._kept = kept
        self._snapshots = snapshots
        self._volumes: dict[str, Source] = {}
        self._opened = ExitStack()
        for volume in {part.volume for part in parts if part.volume}:
            path = snapshots.device(volume)
            self._volumes[volume] = self._opened.enter_context(Source(path, live=True))

    def close(self) -> None:
        """Release the disk and the snapshots."""
        self._opened.close()
        super().close()

    def readinto(self, offset: int, buffer: bytearray | memoryview | mmap.mmap) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on, as they were.

        Raises:
            SnapshotLostError: a snapshot does not hold them any more.
            SourceChangedError: the disk has shrunk or is gone.
            ValueError: the range leaves the disk.
        """
        with memoryview(buffer).cast("B") as view:
            at, end = offset, offset + len(view)
            while at < end:
                part, stop = self._part(at, end)
                with view[at - offset : stop - offset] as piece:
                    self._read_part(part, at, piece)
                at = stop

    def stored(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the parts of a range that a volume has, or nothing of LVM."""
        at, end = offset, offset + length
        while at < end:
            part, stop = self._part(at, end)
            if part is None or part.volume != "":
                yield at, stop
            at = stop

    def _part(self, at: int, end: int) -> tuple[Part | None, int]:
        """Return the part that `at` is in, if any, and where what is alike ends."""
        index = bisect_right(self._starts, at)
        if index and at < self._parts[index - 1].end:
            part = self._parts[index - 1]
            return part, min(end, part.end)
        return None, min([end, *self._starts[index : index + 1]])

    def _read_part(self, part: Part | None, at: int, view: memoryview) -> None:
        if part is None:
            super().readinto(at, view)
        elif part.volume is None:
            start = at - part.offset
            view[:] = self._kept[part.offset][start : start + len(view)]
        elif part.volume == "":
            view[:] = bytes(len(view))
        else:
            self._read_volume(part, part.volume, at, view)

    def _read_volume(self, part: Part, volume: str, at: int, view: memoryview) -> None:
        source = self._volumes[volume]
        place = part.at + at - part.offset
        known = source.bad.bytes
        source.readinto(place, view)
        if source.bad.bytes == known:
            return
        self._snapshots.check(volume)  # one that is full fails every read
        for bad in source.bad.extents:
            start, end = max(bad.offset, place), min(bad.end, place + len(view))
            if start < end:
                self.bad.add(at + start - place, end - start)
