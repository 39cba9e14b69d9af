# SPDX-License-Identifier: GPL-3.0-or-later
"""The file systems on the disks of a plan that may be written to: found, held, synced.

One that is stacked on another (by a loop device, say) was mounted later, so that freezing the last
mounted first lets each flush what it holds to the one below.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.mounts import Mount, device_number, mounts, mounts_of, stacked_on
from p2v.model.errors import FreezeError

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system, held by an open directory in it.

    `devices` are the block devices that it is on, as far as they were looked for.
    """

    mount: Mount
    fd: int
    devices: frozenset[tuple[int, int]]

    def sync(self) -> None:
        """Write out all that is dirty in it (syncfs(2))."""
        if _libc.syncfs(self.fd) != 0:
            error = ctypes.get_errno()
            raise FreezeError(path=self.mount.point, problem=f"sync failed: {os.strerror(error)}")


def devices_of(disks: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """Return the numbers of these disks, of their partitions and of all that is stacked on them."""
    numbers = (device_number(disk) for disk in disks)
    return frozenset(
        device for number in numbers if number is not None for device in stacked_on(number)
    )


@contextmanager
def writable_on(disks: Sequence[Path]) -> Iterator[tuple[FileSystem, ...]]:
    """Hold all writable file systems on these disks, the last mounted first.

    Raises:
        FreezeError: one of them cannot be reached from here, so that it could not be frozen.
    """
    with ExitStack() as stack:
        found = []
        for mounted, devices in _writable(devices_of(disks)):
            fd = _open(mounted)
            stack.callback(os.close, fd)
            found.append(FileSystem(mounted[0], fd, devices))
        yield tuple(reversed(found))


def _writable(
    devices: frozenset[tuple[int, int]],
) -> list[tuple[list[Mount], frozenset[tuple[int, int]]]]:
    """Return the mounts of each file system, in the order in which these were mounted first."""
    table = tuple(mount for mount in mounts() if mount.writable)
    found: dict[tuple[int, int], tuple[list[Mount], set[tuple[int, int]]]] = {}
    on = {
        (mount.device, mount.point): device
        for device in devices
        for mount in mounts_of(device, table)
    }
    for mount in table:
        if (device := on.get((mount.device, mount.point))) is not None:
            places, members = found.setdefault(mount.device, ([], set()))
            places.append(mount)
            members.add(device)
    return [(places, frozenset(members)) for places, members in found.values()]


def _open(mounted: Sequence[Mount]) -> int:
    """Open the file system where it is not hidden by what is mounted over it."""
    for mount in mounted:
        try:
            fd = os.open(mount.point, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        if _mount_id(fd) == mount.id:
            return fd
        os.close(fd)
    raise FreezeError(path=mounted[0].point, problem="it is hidden below another mount")


def _mount_id(fd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("mnt_id:"):
            return int(line.split()[1])
    return -1
