# SPDX-License-Identifier: GPL-3.0-or-later
"""Replay of a VHDX file's log in memory: the file itself is not changed.

Specification: [MS-VHDX] 2.3 (log), 2.3.3 (replay). The log is a ring of 4 KiB sectors that holds
entries; the active sequence is the run of valid entries with ascending sequence numbers, the last
of which points back to its first. What its descriptors say is laid over the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2v.images import c_vhdx as c
from p2v.images._file import pread_some
from p2v.images.vhdx_view import FileView
from p2v.model.units import MiB

MAX_LOG = 64 * MiB
"""Longest log that is replayed in memory; Windows and QEMU write 1 MiB."""
_MAX_ZERO_RANGES = 4096
_READ_FACTOR = 8  # bytes of entries looked at, as a multiple of the log: a sane log needs 3
_WAY_OUT = "attach it once in Windows, or let 'qemu-img check -r all' on a copy replay it"


class ReplayedView(FileView):
    """The bytes of a file with the changes in its log laid over them.

    Holds at most a log of pages. A page lies over all zero ranges: a range that came after it has
    removed it.
    """

    def __init__(self, view: FileView) -> None:
        super().__init__(view.fd, view.path)
        self._pages: dict[int, bytes] = {}
        self._zeros: list[tuple[int, int]] = []

    def put_page(self, offset: int, page: bytes) -> None:
        """Lay a page of 4 KiB over the file at `offset`."""
        self._pages[offset] = page
        self.size = max(self.size, offset + len(page))

    def put_zeros(self, offset: int, length: int) -> None:
        """Lay zeros over the file."""
        end = offset + length
        for page in [page for page in self._pages if offset <= page < end]:
            del self._pages[page]
        if len(self._zeros) == _MAX_ZERO_RANGES:
            self.refuse(f"its log clears more than {_MAX_ZERO_RANGES} ranges; {_WAY_OUT}")
        self._zeros.append((offset, end))
        self.size = max(self.size, end)

    def readinto(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` from `offset` on; where the log has extended the file, with zeros.

        Raises:
            ImageError: the file, as extended by its log, ends before.
        """
        view = memoryview(buffer)
        end = offset + len(view)
        if end > self.size:
            self.refuse(f"{len(view)} bytes at byte {offset} lie beyond the file's end {self.size}")
        done = pread_some(self.fd, offset, view)
        view[done:] = bytes(len(view) - done)
        for start, stop in self._zeros:
            low, high = max(start, offset), min(stop, end)
            if low < high:
                view[low - offset : high - offset] = bytes(high - low)
        for start in range(offset - offset % c.LOG_SECTOR, end, c.LOG_SECTOR):
            page = self._pages.get(start)
            if page is not None:
                low, high = max(start, offset), min(start + len(page), end)
                view[low - offset : high - offset] = page[low - start : high - start]


@dataclass(frozen=True, slots=True)
class _Found:
    """A valid entry of the log at byte `at` of the ring."""

    at: int
    head: c.LogEntry


class _Ring:
    """The log region: reads that wrap, and a limit to how much is looked at in all."""

    def __init__(self, view: FileView, header: c.Header) -> None:
        self._view = view
        self._offset = header.log_offset
        self._log_id = header.log_id
        self.length = header.log_length
        self._budget = _READ_FACTOR * self.length

    def read(self, at: int, length: int) -> bytes:
        """Return `length` bytes from byte `at` of the ring on."""
        at %= self.length
        first = min(length, self.length - at)
        raw = self._view.read(self._offset + at, first)
        return raw + self._view.read(self._offset, length - first)

    def entry(self, at: int) -> c.LogEntry | None:
        """Return the head of the entry at byte `at`, or None where none that is valid begins."""
        head = c.LogEntry.unpack(self.read(at, c.LogEntry.SIZE))
        if head is None or head.log_id != self._log_id or head.sequence == 0:
            return None
        if not c.LOG_SECTOR <= head.length <= self.length or head.length % c.LOG_SECTOR:
            return None
        if head.tail >= self.length or head.tail % c.LOG_SECTOR:
            return None
        if _descriptor_area(head.descriptors) > head.length:
            return None
        self._budget -= head.length
        if self._budget < 0:
            self._view.refuse("its log is damaged: its entries lie over each other")
        return head if c.is_sealed(self.read(at, head.length), c.LOG_SIGNATURE) else None


def replay(view: FileView, header: c.Header) -> ReplayedView:
    """Return the file as it is once its log is replayed.

    Raises:
        ImageError: the log is damaged or longer than `MAX_LOG`, or the file was cut after it.
    """
    if header.log_length > MAX_LOG:
        view.refuse(
            f"its log of {header.log_length} bytes is too long to replay in memory; {_WAY_OUT}"
        )
    ring = _Ring(view, header)
    sequence = _active_sequence(ring)
    if not sequence:
        view.refuse("its log waits to be replayed, but holds no valid entry")
    last = sequence[-1].head
    if last.flushed_offset > view.size:
        view.refuse(
            f"it was cut: it has {view.size} bytes, and had {last.flushed_offset} by its log"
        )
    replayed = ReplayedView(view)
    replayed.size = max(replayed.size, last.last_offset)
    for found in sequence:
        _apply(replayed, ring.read(found.at, found.head.length), found.head)
    return replayed


def _active_sequence(ring: _Ring) -> list[_Found]:
    """Return the entries of the active sequence from its tail to its head (2.3.3)."""
    best: list[_Found] = []
    tail = 0
    while tail < ring.length:
        run = list(_run(ring, tail))
        starts = [found.at for found in run]
        while run and run[-1].head.tail not in starts[: len(run)]:
            run.pop()
        if not run:
            tail += c.LOG_SECTOR
            continue
        if not best or run[-1].head.sequence > best[-1].head.sequence:
            best = run[starts.index(run[-1].head.tail) :]
        tail = run[-1].at + run[-1].head.length  # beyond the ring's end once it has wrapped
        if run[-1].at < run[0].at:
            break
    return best


def _run(ring: _Ring, at: int) -> Iterator[_Found]:
    """Yield the valid entries from byte `at` on whose sequence numbers ascend by one."""
    start, covered, expected = at, 0, None
    while covered < ring.length:
        head = ring.entry(at)
        if head is None or (expected is not None and head.sequence != expected):
            return
        covered += head.length
        if covered > ring.length:
            return
        yield _Found(at, head)
        at = (start + covered) % ring.length
        expected = head.sequence + 1


def _descriptor_area(descriptors: int) -> int:
    """Return the bytes that an entry's head and its descriptors fill, in whole sectors."""
    used = c.LogEntry.SIZE + descriptors * c.Descriptor.SIZE
    return -(-used // c.LOG_SECTOR) * c.LOG_SECTOR


def _apply(view: ReplayedView, entry: bytes, head: c.LogEntry) -> None:
    """Lay over the file what one entry says."""
    data = _descriptor_area(head.descriptors)
    for index in range(head.descriptors):
        item = c.Descriptor.unpack(entry, c.LogEntry.SIZE + index * c.Descriptor.SIZE)
        misplaced = item.offset % c.LOG_SECTOR or item.offset < c.FIRST_LOGGED_OFFSET
        if misplaced or item.sequence != head.sequence:
            view.refuse(f"its log is damaged: a change to byte {item.offset} of the file")
        if item.signature == c.ZERO_DESCRIPTOR:
            if item.zero_length % c.LOG_SECTOR:
                view.refuse(f"its log is damaged: it clears {item.zero_length} bytes")
            view.put_zeros(item.offset, item.zero_length)
        elif item.signature == c.DATA_DESCRIPTOR:
            view.put_page(item.offset, _page(view, entry[data : data + c.LOG_SECTOR], item))
            data += c.LOG_SECTOR
        else:
            view.refuse(f"its log is damaged: a descriptor {item.signature!r}")


def _page(view: FileView, sector: bytes, item: c.Descriptor) -> bytes:
    """Put a page together from its data sector and its descriptor (2.3.1.4)."""
    high, low = item.sequence >> 32, item.sequence & 0xFFFFFFFF
    expected = c.DATA_SECTOR + high.to_bytes(4, "little")
    if sector[:8] != expected or sector[-4:] != low.to_bytes(4, "little"):
        view.refuse(f"its log is damaged: the data for byte {item.offset} of the file is torn")
    return item.leading + sector[8:-4] + item.trailing
