# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk by name: block devices and image files, their sizes, and the kernel's page cache.

Block device requests are those of linux/fs.h.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from p2v.model.errors import NoSuchDiskError

_BLKSSZGET = 0x1268
_BLKPBSZGET = 0x127B
_BLKGETSIZE64 = 0x80081272
_BLKFLSBUF = 0x1261
_SYSFS_SECTOR = 512  # whatever the disk has
IMAGE_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the kernel says of a disk, in bytes.

    The size of an image file is rounded up to whole sectors; what is missing reads as zeros, as
    every hypervisor and qemu-img have it.
    """

    size: int
    logical_sector: int
    physical_sector: int
    block: bool


def resolve(name: str) -> Path:
    """Return the path of the disk or image file `name`: ``sda``, ``/dev/loop0``, ``disk.img``.

    Raises:
        NoSuchDiskError: it is neither a block device nor a regular file.
    """
    for path in _candidates(name):
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError):
            continue
        if stat.S_ISBLK(mode) or stat.S_ISREG(mode):
            return path.resolve()
    raise NoSuchDiskError(disk=name)


def _candidates(name: str) -> tuple[Path, ...]:
    """A bare word is a device before it is a file: `sda` beside a file named sda means the disk."""
    if not name:
        return ()
    return (Path(name),) if "/" in name else (Path("/dev") / name, Path(name))


def is_block(path: Path) -> bool:
    """Whether `path` is a block device."""
    return stat.S_ISBLK(path.stat().st_mode)


def geometry(fd: int) -> Geometry:
    """Return size and sector sizes of the open disk `fd`."""
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        size = -(-status.st_size // IMAGE_SECTOR) * IMAGE_SECTOR
        return Geometry(size, IMAGE_SECTOR, status.st_blksize, block=False)
    (size,) = struct.unpack("=Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))
    (logical,) = struct.unpack("=i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))
    (physical,) = struct.unpack("=I", fcntl.ioctl(fd, _BLKPBSZGET, bytes(4)))
    return Geometry(size, logical, physical, block=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device begins: the whole disk's number, and the byte on it."""

    disk: tuple[int, int]
    offset: int


def place_of(device: str) -> Place | None:
    """Return where the disk or partition `device` begins, None where it is neither.

    A volume or array is no partition: it begins where it is.
    """
    try:
        status = Path(device).stat()
    except OSError:
        return None
    if not stat.S_ISBLK(status.st_mode):
        return None
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    folder = Path(f"/sys/dev/block/{major}:{minor}").resolve()
    if not (folder / "partition").exists():
        return Place((major, minor), 0)
    disk, _, other = (folder.parent / "dev").read_text().strip().partition(":")
    offset = int((folder / "start").read_text()) * _SYSFS_SECTOR
    return Place((int(disk), int(other)), offset)


def drop_cache(fd: int) -> None:
    """Make buffered reads of the block device `fd` see what is on the disk (BLKFLSBUF).

    xfs and btrfs keep their metadata outside the device's page cache, so that what an earlier
    reader left there can be stale.
    """
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        fcntl.ioctl(fd, _BLKFLSBUF, 0)


def partition_node(disk: Path, start: int, size: int) -> Path | None:
    """Return the device node of the partition of `disk` at byte `start`, None where there is none.

    A partition has a page cache of its own: what is mounted there is up to date only through it.
    """
    status = disk.stat()
    if not stat.S_ISBLK(status.st_mode):
        return None
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    for found in Path("/sys/dev/block", number).resolve().glob("*/partition"):
        node = found.parent
        begin, length = (int((node / name).read_text()) for name in ("start", "size"))
        if (begin * _SYSFS_SECTOR, length * _SYSFS_SECTOR) == (start, size):
            path = Path("/dev", node.name.replace("!", "/"))
            return path if path.is_block_device() else None
    return None
