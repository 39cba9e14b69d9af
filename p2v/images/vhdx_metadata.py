# SPDX-License-Identifier: GPL-3.0-or-later
"""The metadata region of a VHDX file: what the disk is like, and whether the file is finished.

Specification: [MS-VHDX] 2.6. The region has no checksum; every value is bounded here.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from p2v.images import c_vhdx as c
from p2v.images._file import pwrite_all, write_zeros
from p2v.images.vhdx_view import FileView
from p2v.model.extent import Extent

_LENGTHS = {
    c.FILE_PARAMETERS: 8,
    c.VIRTUAL_DISK_SIZE: 8,
    c.VIRTUAL_DISK_ID: 16,
    c.LOGICAL_SECTOR_SIZE: 4,
    c.PHYSICAL_SECTOR_SIZE: 4,
}
_KNOWN = (*_LENGTHS, c.PARENT_LOCATOR, c.INCOMPLETE_FILE)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the disk in a VHDX file is like; sizes are bytes.

    `fixed` says that blocks stay allocated, `has_parent` that this is a differencing disk.
    """

    size: int
    sector_size: int
    physical_sector_size: int
    block_size: int
    disk_id: UUID
    fixed: bool = False
    has_parent: bool = False

    @property
    def problem(self) -> str:
        """What the format has against such a disk; empty where nothing (2.6.2)."""
        block_size = self.block_size
        if not c.MIN_BLOCK_SIZE <= block_size <= c.MAX_BLOCK_SIZE or block_size & (block_size - 1):
            return f"its block size is {block_size}, not a power of two from 1 MiB to 256 MiB"
        for value in (self.sector_size, self.physical_sector_size):
            if value not in c.SECTOR_SIZES:
                return f"its sectors have {value} bytes, not 512 or 4096"
        if not 0 < self.size <= c.MAX_SIZE:
            return f"its disk has {self.size} bytes, not from one sector to 64 TiB"
        if self.size % self.sector_size:
            whole = -(-self.size // self.sector_size) * self.sector_size
            return (
                f"its disk of {self.size} bytes is not a multiple of its {self.sector_size}-byte "
                f"sectors; make it {whole} bytes long"
            )
        return ""

    @property
    def blocks(self) -> int:
        """Payload blocks; the last may be partly beyond the disk's end."""
        return -(-self.size // self.block_size)

    @property
    def chunk_ratio(self) -> int:
        """Payload blocks that one sector bitmap block covers (2.5)."""
        return c.SECTORS_PER_BITMAP_BLOCK * self.sector_size // self.block_size

    @property
    def bat_length(self) -> int:
        """Bytes of the block table that are used, for a disk without parent (2.5)."""
        return (self.blocks + (self.blocks - 1) // self.chunk_ratio) * c.BAT_ENTRY.size


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata region and the items of its table."""

    region: Extent
    items: tuple[c.MetadataItem, ...]

    def find(self, guid: UUID) -> c.MetadataItem | None:
        """Return the item with this id that is not a user's."""
        matching = (i for i in self.items if i.id == guid and not i.flags & c.ItemFlag.IS_USER)
        return next(matching, None)

    @property
    def incomplete(self) -> bool:
        """Whether the file says of itself that it is not finished."""
        return self.find(c.INCOMPLETE_FILE) is not None


def read_metadata(view: FileView, region: Extent) -> Metadata:
    """Return the checked metadata table (2.6.1).

    Raises:
        ImageError: it is damaged, or an item is required that is not known.
    """
    raw = view.read(region.offset, c.METADATA_TABLE_LENGTH)
    count = c.unpack_metadata_count(raw)
    if count is None:
        view.refuse(f"its metadata begins with {raw[:8]!r}")
    if count > c.MAX_METADATA_ITEMS:
        view.refuse(f"its metadata claims {count} items, {c.MAX_METADATA_ITEMS} is the most")
    items = c.unpack_metadata_items(raw, count)
    seen = set()
    for item in items:
        _check_item(view, region, item)
        key = (item.id, item.flags & c.ItemFlag.IS_USER)
        if key in seen:
            view.refuse(f"metadata item {item.id} occurs twice")
        seen.add(key)
    return Metadata(region, tuple(items))


def read_parameters(view: FileView, metadata: Metadata) -> Parameters:
    """Return what the disk is like (2.6.2).

    Raises:
        ImageError: an item is missing, or its value is not allowed.
    """

    def value(guid: UUID) -> bytes:
        item = metadata.find(guid)
        if item is None:
            view.refuse(f"metadata item {guid} is missing")
        return view.read(metadata.region.offset + item.offset, item.length)

    def number(raw: bytes) -> int:
        return int.from_bytes(raw, "little")

    file_parameters = value(c.FILE_PARAMETERS)
    flags = number(file_parameters[4:])
    parameters = Parameters(
        block_size=number(file_parameters[:4]),
        size=number(value(c.VIRTUAL_DISK_SIZE)),
        disk_id=UUID(bytes_le=value(c.VIRTUAL_DISK_ID)),
        sector_size=number(value(c.LOGICAL_SECTOR_SIZE)),
        physical_sector_size=number(value(c.PHYSICAL_SECTOR_SIZE)),
        fixed=bool(flags & c.ParameterFlag.LEAVE_BLOCKS_ALLOCATED),
        has_parent=bool(flags & c.ParameterFlag.HAS_PARENT),
    )
    if parameters.problem:
        view.refuse(parameters.problem)
    return parameters


def read_checkpoint(view: FileView, metadata: Metadata) -> int:
    """Return the byte up to which an incomplete file is durable.

    Raises:
        ImageError: another program began this file.
    """
    item = metadata.find(c.INCOMPLETE_FILE)
    raw = b"" if item is None else view.read(metadata.region.offset + item.offset, item.length)
    end = c.unpack_checkpoint(raw)
    if end is None:
        view.refuse("another program began it, and only that can go on with it")
    return end


def write_checkpoint(view: FileView, metadata: Metadata, end: int) -> None:
    """Say in an incomplete file that it is durable up to byte `end`; one sector is written."""
    item = metadata.find(c.INCOMPLETE_FILE)
    assert item is not None, "the file is finished"  # noqa: S101 - the caller's mistake
    pwrite_all(view.fd, metadata.region.offset + item.offset, c.pack_checkpoint(end))


def mark_incomplete(view: FileView, metadata: Metadata, end: int) -> Metadata:
    """Add the Incomplete item to a finished file that is durable up to byte `end`. Durable.

    Its content goes into room that nothing refers to, and is durable before the table refers to it.

    Raises:
        ImageError: the region has no room for it.
    """
    region = metadata.region
    last = max((i.offset + i.length for i in metadata.items), default=0)
    offset = max(-(-last // 512) * 512, c.METADATA_TABLE_LENGTH)
    if offset + c.CHECKPOINT_LENGTH > region.length:
        view.refuse("its metadata region is full")
    if len(metadata.items) == c.MAX_METADATA_ITEMS:
        view.refuse("its metadata table is full")
    item = c.MetadataItem(c.INCOMPLETE_FILE, offset, c.CHECKPOINT_LENGTH, c.ItemFlag.IS_REQUIRED)
    marked = Metadata(region, (*metadata.items, item))
    write_checkpoint(view, marked, end)
    view.sync()
    _write_table(view, marked)
    view.sync()
    return marked


def mark_complete(view: FileView, metadata: Metadata) -> Metadata:
    """Remove the Incomplete item: from here on the file is a finished one, durably.

    Its content goes after it: an item whose content is gone could not be resumed.
    """
    left = tuple(item for item in metadata.items if item.id != c.INCOMPLETE_FILE)
    finished = Metadata(metadata.region, left)
    _write_table(view, finished)
    view.sync()
    item = metadata.find(c.INCOMPLETE_FILE)
    if item is not None:
        write_zeros(view.fd, metadata.region.offset + item.offset, item.length)
    return finished


def new_metadata(parameters: Parameters) -> bytes:
    """Return table and items for a new disk, from the region's first byte on."""
    flags = c.ParameterFlag.LEAVE_BLOCKS_ALLOCATED if parameters.fixed else 0
    required, disk = c.ItemFlag.IS_REQUIRED, c.ItemFlag.IS_REQUIRED | c.ItemFlag.IS_VIRTUAL_DISK
    contents = (
        (c.FILE_PARAMETERS, _numbers(4, parameters.block_size, flags), required),
        (c.VIRTUAL_DISK_SIZE, _numbers(8, parameters.size), disk),
        (c.VIRTUAL_DISK_ID, parameters.disk_id.bytes_le, disk),
        (c.LOGICAL_SECTOR_SIZE, _numbers(4, parameters.sector_size), disk),
        (c.PHYSICAL_SECTOR_SIZE, _numbers(4, parameters.physical_sector_size), disk),
    )
    items, data = [], b""
    for guid, content, kind in contents:
        offset = c.METADATA_TABLE_LENGTH + len(data)
        items.append(c.MetadataItem(guid, offset, len(content), kind))
        data += content
    return c.pack_metadata_table(items) + data


def _numbers(width: int, *values: int) -> bytes:
    return b"".join(value.to_bytes(width, "little") for value in values)


def _write_table(view: FileView, metadata: Metadata) -> None:
    """Write the table; it changes within its first sectors only, as entries are few."""
    pwrite_all(view.fd, metadata.region.offset, c.pack_metadata_table(metadata.items))


def _check_item(view: FileView, region: Extent, item: c.MetadataItem) -> None:
    if item.length and not (
        item.offset >= c.METADATA_TABLE_LENGTH
        and item.length <= c.MAX_METADATA_ITEM_LENGTH
        and item.offset + item.length <= region.length
    ):
        view.refuse(
            f"metadata item {item.id} ({item.length} bytes at {item.offset}) leaves its region"
        )
    if item.flags & c.ItemFlag.IS_REQUIRED and item.id not in _KNOWN:
        view.refuse(f"it needs a metadata item that is not known: {item.id}")
    if item.id not in _LENGTHS or item.flags & c.ItemFlag.IS_USER:
        return
    if item.length != _LENGTHS[item.id]:
        view.refuse(f"metadata item {item.id} has {item.length} bytes, not {_LENGTHS[item.id]}")
    of_disk = item.id != c.FILE_PARAMETERS
    if bool(item.flags & c.ItemFlag.IS_VIRTUAL_DISK) != of_disk:
        view.refuse(f"metadata item {item.id} has wrong flags: {int(item.flags):#x}")
