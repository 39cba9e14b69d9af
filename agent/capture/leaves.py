# SPDX-License-Identifier: GPL-3.0-or-later
"""The block devices below a disk that carry requests, and whether they are still the same.

Only a driver with a request queue shows its reads and writes to the tracker. Device-mapper, md and
the like pass them on to devices below. Sources: Documentation/ABI/stable/sysfs-block,
drivers/nvme/host/multipath.c.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from agent.device import resolve
from p2v.model.errors import NoSuchDiskError

SYSFS = Path("/sys")
_SECTOR = 512  # whatever the disk has
_NVME = re.compile(r"nvme(\d+)n(\d+)")


class Carrier(Enum):
    """How a device does its reads and writes."""

    REQUESTS = "a request queue"
    PATHS = "NVMe paths, each with a request queue"
    DEVICES = "devices below"
    NONE = "neither requests nor devices below"


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a disk from another one under the same name; `sequence` is Linux 5.15's diskseq.

    The inode of a device's folder in sysfs is new whenever the device is.
    """

    inode: int
    sequence: str
    lower: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A whole disk as the kernel has it; `size` is bytes.

    `scatters`: whether one discard may be of several ranges.
    """

    name: str
    number: tuple[int, int]
    size: int
    carrier: Carrier
    identity: Identity
    scatters: bool = False

    @property
    def nvme(self) -> tuple[int, int] | None:
        """Subsystem and head of an NVMe multipath disk, None for any other."""
        if self.carrier is not Carrier.PATHS or (match := _NVME.fullmatch(self.name)) is None:
            return None
        return int(match[1]), int(match[2])


def kernel_name(disk: str | Path, sysfs: Path = SYSFS) -> str:
    """Return the kernel's name of the whole disk `disk`: ``sda`` for ``/dev/disk/by-id/...``.

    Raises:
        NoSuchDiskError: it is no block device, or a partition.
    """
    status = resolve(str(disk)).stat()
    if not stat.S_ISBLK(status.st_mode):
        raise NoSuchDiskError(disk=str(disk))
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    folder = (sysfs / "dev/block" / number).resolve()
    if (folder / "partition").exists():
        raise NoSuchDiskError(disk=str(disk))
    return folder.name


def read_leaf(name: str, sysfs: Path = SYSFS) -> Leaf:
    """Return what the kernel says of the disk `name`.

    Raises:
        OSError: it is gone.
    """
    folder = sysfs / "block" / name
    major, _, minor = _read(folder / "dev").partition(":")
    lower = tuple(sorted(entry.name for entry in (folder / "slaves").glob("*")))
    return Leaf(
        name=name,
        number=(int(major), int(minor)),
        size=int(_read(folder / "size")) * _SECTOR,
        carrier=_carrier(folder, name, lower),
        identity=Identity(folder.stat().st_ino, _read(folder / "diskseq", ""), lower),
        scatters=_read(folder / "queue/max_discard_segments", "1") not in ("0", "1"),
    )


def leaves_of(disk: Leaf, sysfs: Path = SYSFS) -> tuple[Leaf, ...]:
    """Return the devices that carry the requests of `disk`: itself, or what lies below it.

    Empty where one of them carries none, so that not everything could be seen.

    Raises:
        OSError: one of them is gone.
    """
    if disk.carrier in (Carrier.REQUESTS, Carrier.PATHS):
        return (disk,)
    found: dict[str, Leaf] = {}
    for name in disk.identity.lower:
        below = leaves_of(read_leaf(_whole(name, sysfs), sysfs), sysfs)
        if not below:
            return ()
        found |= {leaf.name: leaf for leaf in below}
    return tuple(found.values())


def starts_of(disk: Leaf, leaves: Sequence[Leaf], sysfs: Path = SYSFS) -> tuple[int, ...] | None:
    """Return at which byte of each of its `leaves` a disk begins, None where that isn't known.

    It is for a mirror (md RAID 1), each of whose members holds all of it in one piece, on a disk
    or a partition. Source: Documentation/admin-guide/md.rst.

    Raises:
        OSError: one of them is gone.
    """
    if leaves == (disk,):
        return (0,)
    folder = sysfs / "block" / disk.name / "md"
    if _read(folder / "level", "") != "raid1":
        return None
    starts: dict[str, int] = {}
    for name in disk.identity.lower:
        begin = int(_read(sysfs / "class/block" / name / "start", "0"))
        begin += int(_read(folder / f"dev-{name}" / "offset"))
        starts[_whole(name, sysfs)] = begin * _SECTOR
    if len(starts) != len(disk.identity.lower) or starts.keys() != {leaf.name for leaf in leaves}:
        return None
    return tuple(starts[leaf.name] for leaf in leaves)


def _carrier(folder: Path, name: str, lower: tuple[str, ...]) -> Carrier:
    # Before Linux 5.0 a disk may have a queue of the older kind, without the folder `mq`; what
    # has no queue has no scheduler either.
    if (folder / "mq").exists() or _read(folder / "queue/scheduler", "none") != "none":
        return Carrier.REQUESTS
    if _NVME.fullmatch(name):
        return Carrier.PATHS
    return Carrier.DEVICES if lower else Carrier.NONE


def _whole(name: str, sysfs: Path) -> str:
    """The disk that the partition `name` is on, or itself."""
    folder = (sysfs / "class/block" / name).resolve()
    return folder.parent.name if (folder / "partition").exists() else folder.name


def _read(path: Path, default: str | None = None) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        if default is None:
            raise
        return default
