# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems frozen together, for a short time, whatever happens.

While they are frozen this process must not write to them, nor wait for somebody who does: nothing
is logged, imported or shown, memory is locked. A watchdog (native/freeze) thaws when this process
dies or takes too long. Requests are those of linux/fs.h; ioctl_fsfreeze, ioctl_iflags of
man-pages.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.live.filesystems import FileSystem, writable_on
from native._freeze import Watchdog, lock_memory, unlock_memory
from p2v.model.errors import FreezeError

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
_UNKNOWN = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


@dataclass
class Freeze:
    """A freeze under way: what is `held`, and what is `unfrozen` as it knows no freezing (vfat)."""

    watchdog: Watchdog
    held: list[FileSystem] = field(default_factory=list)
    unfrozen: list[FileSystem] = field(default_factory=list)
    seconds: float = 0.0
    """From before the first was frozen until all were thawed."""
    at: float = 0.0
    """When it began, in seconds since the epoch."""
    late: bool = False
    """Whether it took too long, so that the watchdog has ended it."""

    def check(self) -> bool:
        """Return whether all is still frozen: what was read before this call was."""
        self.late = self.watchdog.expired
        return not self.late


@contextmanager
def frozen(systems: Sequence[FileSystem], limit_s: float) -> Iterator[Freeze]:
    """Write out all `systems`, and freeze them in their order while the block runs.

    After `limit_s` seconds the watchdog thaws them, and `Freeze.late` tells. It also thaws if
    this process dies.

    Raises:
        FreezeError: one cannot be frozen, though it knows how to; all are thawed.
    """
    try:
        watchdog = Watchdog([system.fd for system in systems], limit_s)
    except OSError as error:
        raise FreezeError(path="anything", problem=f"no watchdog ({error.strerror})") from error
    freeze = Freeze(watchdog)
    thawed = False
    collecting = gc.isenabled()
    try:
        gc.disable()
        _lock()
        for system in systems:  # what is written out now does not hold up the freeze
            system.sync()
        freeze.at, begun = time.time(), time.monotonic()
        watchdog.begin()
        try:
            for index, system in enumerate(systems):
                _freeze(freeze, index, system)
            yield freeze
        finally:
            thawed = True
            for system in reversed(freeze.held):
                thawed &= _thaw(system)
            freeze.seconds = time.monotonic() - begun
    finally:
        unlock_memory()
        if collecting:
            gc.enable()
        freeze.late |= watchdog.expired
        watchdog.end(thawed)


def settle(disks: Sequence[Path], limit_s: float) -> tuple[Freeze, frozenset[tuple[int, int]]]:
    """Freeze and thaw once what is mounted of these disks: it writes out what is in journals.

    Return the freeze, and the devices whose maps of used blocks are right from then on.

    Raises:
        FreezeError: one cannot be frozen, though it knows how to.
    """
    with writable_on(disks) as systems:
        with frozen(systems, limit_s) as freeze:
            pass
        held = [] if freeze.late else freeze.held
        return freeze, frozenset(device for system in held for device in system.devices)


def _lock() -> None:
    try:
        lock_memory()
    except OSError as error:
        raise FreezeError(
            path="anything", problem=f"memory cannot be locked ({error.strerror})"
        ) from error


def _freeze(freeze: Freeze, index: int, system: FileSystem) -> None:
    freeze.watchdog.note(index, True)
    freeze.held.append(system)
    try:
        fcntl.ioctl(system.fd, FIFREEZE, 0)
    except OSError as error:
        freeze.held.remove(system)
        freeze.watchdog.note(index, False)
        if error.errno not in _UNKNOWN:
            problem = (
                "somebody else has frozen it" if error.errno == errno.EBUSY else error.strerror
            )
            raise FreezeError(path=system.mount.point, problem=problem) from error
        freeze.unfrozen.append(system)


def _thaw(system: FileSystem) -> bool:
    """Thaw; return whether it is thawed for sure."""
    try:
        fcntl.ioctl(system.fd, FITHAW, 0)
    except OSError as error:
        return error.errno == errno.EINVAL  # the watchdog was first, or it was never frozen
    return True
