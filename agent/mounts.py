# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses a disk: mounts, swap, and the devices stacked on it (dm, md, bcache, loop).

Sources: proc(5) for mountinfo and swaps, sysfs for holders and partitions,
Documentation/ABI/testing/sysfs-fs-btrfs for the members of a btrfs.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system. `writable` is the file system's own state, not that of one mount."""

    device: tuple[int, int]
    source: str
    point: str
    type: str
    writable: bool
    id: int = 0
    """Of this mount, as mountinfo and fdinfo know it."""


def mounts(text: str | None = None) -> tuple[Mount, ...]:
    """Return the mounts in `text`, a mountinfo; of this process by default."""
    if text is None:
        text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return tuple(_mount(line) for line in text.splitlines() if " - " in line)


def _mount(line: str) -> Mount:
    left, _, right = line.partition(" - ")
    fields, (kind, source, options) = left.split(" "), right.split(" ", 2)
    major, _, minor = fields[2].partition(":")
    return Mount(
        device=(int(major), int(minor)),
        source=_plain(source),
        point=_plain(fields[4]),
        type=kind,
        # A bind mount may be read-only while the file system below it is not.
        writable="rw" in options.split(","),
        id=int(fields[0]),
    )


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def swaps(text: str | None = None) -> tuple[str, ...]:
    """Return the devices and files in use as swap; `text` is a /proc/swaps."""
    if text is None:
        text = Path("/proc/swaps").read_text(errors="surrogateescape")
    return tuple(_plain(line.split()[0]) for line in text.splitlines()[1:] if line)


def device_number(path: str | Path) -> tuple[int, int] | None:
    """Return major and minor of the block device `path`, None where it is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - also for names that mountinfo made up
    except (OSError, ValueError):
        return None
    if not stat.S_ISBLK(status.st_mode):
        return None
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def mounts_of(device: tuple[int, int], table: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """Return the mounts of the block device `device`.

    btrfs gives its mounts a device number of their own and names but one member; sysfs knows the
    others.
    """
    members = {device, *_btrfs_siblings(device)}
    return tuple(
        mount
        for mount in table
        if mount.device in members
        or (mount.device[0] == 0 and device_number(mount.source) in members)
    )


def _btrfs_siblings(device: tuple[int, int]) -> Iterator[tuple[int, int]]:
    for devices in Path("/sys/fs/btrfs").glob("*/devices"):
        numbers = [_number(link) for link in devices.iterdir()]
        if device in numbers:
            yield from (number for number in numbers if number is not None)


def _number(node: Path) -> tuple[int, int] | None:
    try:
        major, _, minor = (node / "dev").read_text().strip().partition(":")
    except OSError:
        return None
    return int(major), int(minor)


def _sysfs(device: tuple[int, int]) -> Path:
    return Path(f"/sys/dev/block/{device[0]}:{device[1]}").resolve()


def stacked_on(device: tuple[int, int]) -> dict[tuple[int, int], str]:
    """Return `device`, its partitions and all that is stacked on them, by number, with names."""
    found: dict[tuple[int, int], str] = {}
    waiting = [_sysfs(device)]
    while waiting:
        node = waiting.pop()
        number = _number(node)
        if number is None or number in found:
            continue
        found[number] = node.name
        waiting += [child.parent for child in node.glob("*/partition")]
        waiting += [holder.resolve() for holder in (node / "holders").glob("*")]
        waiting += _loops_over(f"/dev/{node.name}")
    return found


def loops_over(path: Path) -> tuple[tuple[int, int], ...]:
    """Return the loop devices whose backing file is `path`."""
    numbers = (_number(node) for node in _loops_over(str(path)))
    return tuple(number for number in numbers if number is not None)


def _loops_over(path: str) -> Iterator[Path]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = backing.read_text(errors="surrogateescape").rstrip("\n")
        except OSError:  # detached in between
            continue
        if name.removesuffix(_DELETED) == path:
            yield backing.parent.parent.resolve()


def writers_of(path: Path) -> tuple[str, ...]:
    """Say in words who may write to the disk or image `path`; empty where nobody does.

    Partitions and devices stacked on it count; a read-only mount or loop device does not.
    """
    number = device_number(path)
    roots = loops_over(path) if number is None else (number,)
    stacked = {k: v for root in roots for k, v in stacked_on(root).items()}
    table = mounts()
    said = [
        f"{name} is mounted read-write on {mount.point}"
        for device, name in stacked.items()
        for mount in mounts_of(device, table)
        if mount.writable
    ]
    in_use = {device_number(swap) for swap in swaps()}
    said += [f"{name} is in use as swap" for device, name in stacked.items() if device in in_use]
    return tuple(dict.fromkeys(said))
