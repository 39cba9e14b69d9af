# SPDX-License-Identifier: GPL-3.0-or-later
"""What LVM put into a physical volume: extents that nothing has, and volumes whose maps count.

A volume that is active is looked at through its own device, wherever its pieces are: what is
mounted is up to date only there. Else the disk is, where the volume lies in one piece. Volumes of
other kinds (thin, RAID, striped, cached, with a snapshot) have no map here: all of them is copied.
Sources: Documentation/ABI/testing/sysfs-block-dm.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import tools
from agent.capture.allocation import Allocation, used_extents
from agent.capture.chunkset import ChunkSet
from agent.device import Place, drop_cache, partition_node
from agent.inventory.content import read_content
from agent.inventory.volume.lvm import Physical, Segment, Volume, read_physical
from agent.inventory.volume.window import Window
from agent.mounts import device_number, mounts, mounts_of
from p2v.model.errors import ToolError
from p2v.model.extent import Extent

SYSFS = Path("/sys")
_SECTOR = 512  # whatever the disk has


@dataclass(frozen=True, slots=True)
class Logical:
    """A volume whose bytes lie on the disk as they are numbered; `segments` are those on this disk.

    `content` is blkid's word for what it holds; `node` its device while it is active.
    """

    name: str
    size: int
    segments: tuple[Segment, ...]
    node: Path | None
    content: str

    @property
    def whole(self) -> bool:
        """Whether it lies in one piece on this disk."""
        return len(self.segments) == 1 and self.segments[0].length == self.size

    def used(self, disk: Path, settled: Collection[tuple[int, int]]) -> tuple[Allocation, ...]:
        """Return which blocks of each segment are in use; see `used_extents` of `settled`."""
        if self.node is not None and _held(self.node):
            reason = "something that is not mounted here has it open"
            found = Allocation(0, self.size, self.size, None, reason)
        elif self.node is not None:
            found = used_extents(self.node, 0, self.size, self.content, settled)
        elif self.whole:
            found = used_extents(disk, self.segments[0].offset, self.size, self.content, settled)
        else:
            reason = "it lies in several pieces, and is not active"
            found = Allocation(0, self.size, self.size, None, reason)
        return tuple(_within(found, part) for part in self.segments)


def _held(node: Path) -> bool:
    """Whether anybody but a mount has an active volume open: a virtual machine, say.

    What he writes may be in blocks that the map on the disk still calls free.
    """
    number = device_number(node)
    if number is None or mounts_of(number, mounts()):
        return False  # it is looked at further on
    words = ("--noheadings", "-o", "open", "-j", str(number[0]), "-m", str(number[1]))
    try:
        return tools.run(["dmsetup", "info", "-c", *words]).strip() != b"0"
    except ToolError:
        return True  # nobody knows


def _within(found: Allocation, part: Segment) -> Allocation:
    """Return the part of a volume's map that a segment has, at its place on the disk."""
    if found.chunks is None:
        return Allocation(part.offset, part.length, part.length, None, found.reason)
    chunks = ChunkSet(part.offset, part.length)
    used = 0
    for extent in found.extents():
        start = max(extent.offset - found.offset, part.at)
        end = min(extent.end - found.offset, part.at + part.length)
        if start < end:
            chunks.add(part.offset + start - part.at, end - start)
            used += end - start
    return Allocation(part.offset, part.length, used, chunks)


@dataclass(frozen=True, slots=True)
class Held:
    """What a physical volume holds, in places on the disk: `free` is what nothing has."""

    free: tuple[Extent, ...]
    volumes: tuple[Logical, ...]


def read_held(disk: Path, start: int, size: int, sysfs: Path = SYSFS) -> Held:
    """Return what the physical volume at byte `start` of a disk or image file holds.

    Raises:
        VolumeDamagedError: nobody can tell what is free.
        OSError: the disk can't be opened.
    """
    node = partition_node(disk, start, size)
    fd = os.open(node or disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        drop_cache(fd)  # LVM writes past it
        physical = read_physical(Window(fd, 0 if node else start, size))
    finally:
        os.close(fd)
    free = tuple(Extent(start + at, length) for at, length in physical.free())
    return Held(free, tuple(_logical(disk, start, physical, sysfs)))


def _logical(disk: Path, start: int, physical: Physical, sysfs: Path) -> Iterator[Logical]:
    active = _active(device_number(disk), start, sysfs)
    for volume in physical.volumes:
        segments = tuple(
            Segment(part.at, start + part.offset, part.length) for part in volume.segments
        )
        if not segments:
            continue  # it is elsewhere
        known = active.get(volume.uuid)
        node = None if known is None else known.node
        sure = known is None or (known.here and known.size == volume.size)
        content = _content(disk, volume, segments[0], node) if sure else ""  # which has no map
        yield Logical(volume.name, volume.size, segments, node, content)


def _content(disk: Path, volume: Volume, part: Segment, node: Path | None) -> str:
    if node is None and not volume.whole:
        return ""
    try:
        return read_content(node or disk, 0 if node else part.offset, volume.size).kind
    except ToolError:
        return ""


@dataclass(frozen=True, slots=True)
class _Active:
    """A volume that the kernel has. It is `here` if the physical volume that is asked for is below.

    One that is not may be that of a copy of this disk: nobody knows which of them counts.
    """

    node: Path
    size: int
    here: bool


def _active(disk: tuple[int, int] | None, start: int, sysfs: Path) -> dict[str, _Active]:
    """Return the kernel's volumes by UUID, seen from what is at byte `start` of a disk."""
    found = {}
    for folder in (sysfs / "block").glob("dm-*"):
        below = [_place(entry.resolve()) for entry in (folder / "slaves").glob("*")]
        uuid = (folder / "dm/uuid").read_text().strip()
        size = int((folder / "size").read_text()) * _SECTOR
        here = disk is not None and Place(disk, start) in below
        found[uuid] = _Active(Path("/dev", folder.name), size, here)
    return found


def _place(device: Path) -> Place:
    """Return where a device begins that sysfs has: /dev need not have it."""
    whole = device.parent if (device / "partition").exists() else device
    offset = 0 if whole == device else int((device / "start").read_text()) * _SECTOR
    major, _, minor = (whole / "dev").read_text().strip().partition(":")
    return Place((int(major), int(minor)), offset)
