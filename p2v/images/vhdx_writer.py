# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a VHDX file from several threads, so that a crash at any moment loses nothing durable.

Until `commit`, the file bears a `.partial` name and the format's own Incomplete item, which every
reader has to refuse. The format's log is not used: it protects a file that must stay mountable
while it is written, and this one must not be mounted.

**What is on the disk after a crash.** All that was written before the last `fdatasync`, and of the
later writes any subset of pages, in any order. Of an interrupted checkpoint the file may thus hold
table entries whose blocks were never written, lack entries of blocks that were, and be of any
length. Two rules make all of these harmless:

1. The content of the Incomplete item is the *durable end*: a byte of the file below which every
   allocated block belongs to an entry that is durable. Blocks are allocated in ascending order,
   and their entry is written under the same lock, so a checkpoint takes the end of the last block,
   calls `fdatasync`, which makes all entries and data up to there durable, writes the end into the
   item (within one sector), and calls `fdatasync` again.
2. `resume` drops every entry of a block at or beyond the durable end, and cuts the file there.
   What was cut off comes back as zeros.

So when the durable end passes a place in the file, exactly one entry on the disk leads there. An
entry that had led there before a crash was either dropped by rule 2, and the sync that came before
the durable end moved has made that durable too; or it had never reached the disk, and after the
crash nothing can bring it there. Should the next crash come before that sync, the old entry may be
back, but the durable end has not moved and rule 2 drops it again. No block shows bytes that were
written for another, and no room is lost. The caller writes again what it wrote after its last
checkpoint, into absent blocks or, below the durable end, over the old bytes; what it does not write
again was zero, or durable.

`commit` makes everything durable, then takes the Incomplete item away, then gives the file its
name; `resume` finds its way back from between any two of these.

A failed `fdatasync` may have thrown away dirty pages, and a second one would not tell. The writer
refuses to go on then; `resume` starts from the last checkpoint that succeeded.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Self
from uuid import UUID, uuid4

from p2v.images import c_vhdx as c
from p2v.images._file import fill_holes, pwrite_all, zero_range
from p2v.images._partial import create_partial, publish, reopen, withdraw
from p2v.images.base import Buffer, partial_path
from p2v.images.vhdx_create import (
    default_block_size,
    discard_unborn,
    write_headers,
    write_structures,
)
from p2v.images.vhdx_layout import Layout, read_header, read_layout
from p2v.images.vhdx_metadata import (
    Parameters,
    mark_complete,
    mark_incomplete,
    read_checkpoint,
    write_checkpoint,
)
from p2v.images.vhdx_reader import VhdxDisk
from p2v.images.vhdx_view import FileView
from p2v.model.errors import ImageError


class VhdxWriter(VhdxDisk):
    """A VHDX file being written; see `ImageWriter` for the life of an image."""

    def __init__(self, path: Path, view: FileView, layout: Layout, end: int) -> None:
        super().__init__(path, view, layout)
        self.partial = partial_path(path)
        self._end = self._durable_end = end
        self._metadata = layout.metadata
        self._allocating = Lock()
        self._syncing = Lock()
        self._closed_because = ""

    @classmethod
    def create(
        cls,
        path: Path,
        size: int,
        *,
        sector_size: int = 512,
        physical_sector_size: int = 4096,
        block_size: int | None = None,
        fixed: bool = False,
        disk_id: UUID | None = None,
    ) -> Self:
        """Create an image of a disk of `size` zeros, durably, under its partial name.

        All sizes are bytes. `disk_id` is what the guest sees as the disk's unique id.

        Raises:
            ImageError: the format allows no such disk, or the image is already there.
            NoRoomError: the file system has no room for a fixed image; nothing is left behind.
        """
        disk = Parameters(
            size=size,
            sector_size=sector_size,
            physical_sector_size=physical_sector_size,
            block_size=default_block_size(size) if block_size is None else block_size,
            disk_id=disk_id or uuid4(),
            fixed=fixed,
        )
        if disk.problem:
            raise ImageError(path=path, problem=disk.problem)
        partial = partial_path(path)
        discard_unborn(partial)
        view = FileView(create_partial(path), partial)
        try:
            write_structures(view, disk)
            layout = read_layout(view, read_header(view)[1])
            return cls(path, view, layout, view.size)
        except BaseException:
            partial.unlink()
            os.close(view.fd)
            raise

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Go on with a partial image from its last checkpoint, or with a committed one.

        A committed image is marked incomplete and gets its partial name again.

        Raises:
            ImageError: there is no such image, another process writes it, it is damaged, or it
                cannot be written: a differencing disk, or a log that waits to be replayed.
        """
        view = FileView(reopen(path), path)
        try:
            slot, header = read_header(view)
            if header.log_id != c.NO_ID:
                view.refuse("its log waits to be replayed; attach it once in Windows")
            layout = read_layout(view, header)
            if layout.disk.has_parent:
                view.refuse("it is a differencing disk, which is only read by its owner")
            writer = cls(path, view, layout, view.size)
            if layout.metadata.incomplete:
                writer._rewind(read_checkpoint(view, layout.metadata))
            else:
                writer._reopen(slot, header)
            withdraw(path)
        except BaseException:
            os.close(view.fd)
            raise
        view.path = writer.partial
        return writer

    def write(self, offset: int, data: Buffer) -> None:
        """Store `data` at `offset`.

        Raises:
            ImageError: the range leaves the disk.
            NoRoomError: the file system is full; the image stays consistent, write again later.
        """
        self._check_open()
        view = memoryview(data).cast("B")
        done = 0
        for block, start, length in self._pieces(offset, len(view)):
            position = self._bat.find(block)
            if position is None:
                position = self._allocate(block)
            pwrite_all(self._view.fd, position + start, view[done : done + length])
            done += length

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros; absent blocks stay absent.

        Raises:
            ImageError: the range leaves the disk.
            NoRoomError: the file system is full; zero again later.
        """
        self._check_open()
        self._check_range(offset, length)
        size, end = self.block_size, offset + length
        for first, entries in self._bat.runs(offset // size, -(-end // size)):
            if not any(entries):
                continue
            for block, entry in enumerate(entries, first):
                position = self._bat.place(block, entry)
                if position is not None:
                    low, high = max(offset - block * size, 0), min(end - block * size, size)
                    zero_range(self._view.fd, position + low, high - low)

    def checkpoint(self) -> None:
        """Make durable all that was written before the call.

        Raises:
            ImageError: the disk failed; the image has to be resumed.
            NoRoomError: the file system is full; the image has to be resumed.
        """
        self._check_open()
        with self._syncing:
            with self._allocating:
                end = self._end
            self._view.sync()
            if end != self._durable_end:
                write_checkpoint(self._view, self._metadata, end)
                self._view.sync()
                self._durable_end = end

    def commit(self) -> None:
        """Finish the image under its final name; nobody else may be writing it any more.

        Every hole in the file becomes real zeros: Hyper-V refuses sparse files, and copies of
        a file with holes tend to be sparse.

        Raises:
            ImageError: the final name is taken, or the disk failed.
            NoRoomError: the file system is full; commit again later.
        """
        if self.path.exists():
            raise ImageError(path=self.path, problem="it already exists; move it away and go on")
        self.checkpoint()
        self._view.resize(self._end)
        fill_holes(self._view.fd, 0, self._end)
        self._metadata = mark_complete(self._view, self._metadata)
        self._renew_headers(*read_header(self._view))
        publish(self.path)
        self._closed_because = "it is committed"

    def close(self) -> None:
        """Release the file; without `commit` it stays partial, as of the last checkpoint."""
        super().close()
        self._closed_because = self._closed_because or "it is closed"

    def _allocate(self, block: int) -> int:
        """Return where `block` begins in the file, new or put there by another thread."""
        with self._allocating:
            position = self._bat.find(block)
            if position is None:
                position = self._end
                self._view.reserve(position, self.block_size)
                self._bat.put(block, position)
                self._end = self._view.size
            return position

    def _reopen(self, slot: int, header: c.Header) -> None:
        """Mark a committed image as incomplete, durably."""
        end = self._sweep(None)
        self._renew_headers(slot, header)
        self._view.resize(end)
        self._end = self._durable_end = end
        self._metadata = mark_incomplete(self._view, self._metadata, end)

    def _rewind(self, durable_end: int) -> None:
        """Go back to the last checkpoint."""
        view = self._view
        if durable_end % c.UNIT or durable_end > view.size:
            view.refuse(
                f"it was cut: it has {view.size} bytes, and {durable_end} at its last checkpoint"
            )
        end = self._sweep(durable_end)
        if end > durable_end:
            view.refuse(f"a block ends at byte {end}, beyond the last checkpoint's {durable_end}")
        view.resize(durable_end)
        self._end = self._durable_end = durable_end

    def _sweep(self, durable_end: int | None) -> int:
        """Check all entries, drop those from `durable_end` on; return where the last block ends.

        Raises:
            ImageError: an entry is not allowed, or two lead to the same place.
        """
        bat, view = self._bat, self._view
        last = max(region.end for region in self._layout.reserved)
        taken = bytearray((durable_end or view.size) // c.UNIT // 8 + 1)
        for block, entry in bat.written():
            if durable_end is not None and entry & c.OFFSET_MASK >= durable_end:
                bat.drop(block)
                continue
            position = bat.place(block, entry)
            if position is None:
                continue
            byte, bit = divmod(position // c.UNIT, 8)
            if taken[byte] >> bit & 1:
                view.refuse(f"block {block} shares its place with another: {position}")
            taken[byte] |= 1 << bit
            last = max(last, position + self.block_size)
        return last

    def _renew_headers(self, slot: int, header: c.Header) -> None:
        """Say in both headers that file and disk have changed (2.2.2)."""
        changed = replace(header, file_write_id=uuid4(), data_write_id=uuid4())
        write_headers(self._view, slot, changed)

    def _check_open(self) -> None:
        if self._closed_because:
            raise ImageError(path=self._view.path, problem=self._closed_because)
