# SPDX-License-Identifier: GPL-3.0-or-later
"""The structures of a new VHDX file.

The file's places are those that Windows uses: log at 1 MiB, metadata at 2 MiB, block table at
3 MiB, payload behind it.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from p2v.images import c_vhdx as c
from p2v.images._file import pwrite_all
from p2v.images.vhdx_metadata import Parameters, mark_incomplete, new_metadata, read_metadata
from p2v.images.vhdx_view import FileView
from p2v.model.extent import Extent
from p2v.model.units import MiB

CREATOR = "p2v"
_UNBORN = b"p2v new\0"
"""What a file begins with until all its structures are durable."""
_LOG = Extent(MiB, MiB)
_METADATA = Extent(2 * MiB, MiB)
_BAT_OFFSET = 3 * MiB
_DEFAULT_BAT = 64 * MiB


def default_block_size(size: int) -> int:
    """Return the block size for a disk: 1 MiB, and larger where the table would pass 64 MiB.

    Blocks are stored whole, so small ones keep a thin disk small: a new 8 TiB ext4 spreads 1.1 GiB
    of metadata so far that 4 MiB blocks made a file of 16 GiB. It is also what Microsoft advises
    for Linux guests (Best Practices for running Linux on Hyper-V: BlockSizeBytes 1MB).
    """
    block_size = MiB
    while -(-size // block_size) * c.BAT_ENTRY.size > _DEFAULT_BAT:
        block_size *= 2
    return block_size


def discard_unborn(path: Path) -> None:
    """Remove the file at `path` if its creation was interrupted, and nobody is at it."""
    if not path.exists():
        return
    with path.open("rb") as file, suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if file.read(len(_UNBORN)) in (b"", _UNBORN):
            path.unlink()


def write_structures(view: FileView, disk: Parameters) -> None:
    """Make an empty file an incomplete VHDX file that holds a disk of zeros. Durable.

    It gets its signature last. A fixed disk gets all its blocks.

    Raises:
        NoRoomError: the file system is full.
    """
    bat = Extent(_BAT_OFFSET, _round_up(disk.bat_length))
    end = bat.end + (disk.blocks * disk.block_size if disk.fixed else 0)
    pwrite_all(view.fd, 0, _UNBORN)
    view.reserve(0, end)
    regions = c.pack_region_table(
        (
            c.RegionEntry(c.BAT_REGION, bat.offset, bat.length),
            c.RegionEntry(c.METADATA_REGION, _METADATA.offset, _METADATA.length),
        )
    )
    for offset in c.REGION_TABLE_OFFSETS:
        pwrite_all(view.fd, offset, regions)
    pwrite_all(view.fd, _METADATA.offset, new_metadata(disk))
    mark_incomplete(view, read_metadata(view, _METADATA), end)
    header = c.Header(0, uuid4(), uuid4(), c.NO_ID, _LOG.length, _LOG.offset)
    write_headers(view, 1, header)
    if disk.fixed:
        _write_full_bat(view, disk, bat)
    view.sync()
    pwrite_all(view.fd, 0, c.pack_file_id(CREATOR))
    view.sync()


def write_headers(view: FileView, slot: int, header: c.Header) -> tuple[int, c.Header]:
    """Replace both headers, durably, one after the other; return the current slot and header.

    `slot` holds the current header, which stays readable until the other one is durable. The
    sequence numbers go on from that of `header`. Specification: [MS-VHDX] 2.2.2.1.
    """
    sequence = header.sequence
    for step in (1, 2):
        slot = 1 - slot
        header = replace(header, sequence=sequence + step)
        pwrite_all(view.fd, c.HEADER_OFFSETS[slot], header.pack())
        view.sync()
    return slot, header


def _write_full_bat(view: FileView, disk: Parameters, bat: Extent) -> None:
    """Write the block table of a fixed disk, whose blocks lie in order behind it."""
    position = bat.offset
    for entries in _full_chunks(disk, bat.end):
        pwrite_all(view.fd, position, entries)
        position += len(entries)


def _full_chunks(disk: Parameters, first: int) -> Iterator[bytes]:
    """Yield the entries of each chunk, with the unused sector bitmap entry behind."""
    for start in range(0, disk.blocks, disk.chunk_ratio):
        stop = min(start + disk.chunk_ratio, disk.blocks)
        entries = [
            first + block * disk.block_size | c.BlockState.FULLY_PRESENT
            for block in range(start, stop)
        ]
        if stop < disk.blocks:
            entries.append(c.BlockState.NOT_PRESENT)
        yield struct.pack(f"<{len(entries)}Q", *entries)


def _round_up(length: int) -> int:
    return -(-length // c.UNIT) * c.UNIT
