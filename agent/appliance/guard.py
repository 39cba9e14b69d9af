# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard of the source: its disks cannot be written to.

A udev rule makes every disk and partition read-only when it appears, before anything looks at it.
Here that is made sure of once more before a disk is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent import tools
from p2v.model.errors import DiskInUseError

SYSFS = Path("/sys/class/block")


def writable_devices(disks: Iterable[str], sysfs: Path = SYSFS) -> list[str]:
    """Return those of `disks` (``sda``) and their partitions that may be written to."""
    names = [name for disk in disks for name in (disk, *_partitions(sysfs / disk))]
    return [name for name in names if _says(sysfs / name / "ro", "0")]


def protect(disks: Iterable[str]) -> None:
    """Make `disks` and their partitions read-only.

    Raises:
        DiskInUseError: one of them stays writable.
        ToolError: the kernel refuses.
    """
    names = list(disks)
    for name in writable_devices(names):
        tools.run(["blockdev", "--setro", f"/dev/{name}"])
    if left := writable_devices(names):
        raise DiskInUseError(disk=left[0], problem="it cannot be made read-only")


def _partitions(disk: Path) -> list[str]:
    return sorted(found.parent.name for found in disk.glob("*/partition"))


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text().strip() == text
    except OSError:
        return False
