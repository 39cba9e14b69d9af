# SPDX-License-Identifier: GPL-3.0-or-later
"""The change tracker: what was written to the disks of a plan while they are being copied.

Its promise, and the order that it rests on: a granule that `swap` gives was cleared before, so
that a write which the copy's read did not see is in a later `swap`. Where that cannot be promised,
`doubt` says why, and the disk has to be compared as a whole. docs/tracker.md has the argument.

How a migration uses it, pass by pass (`ChangeTracker` is all that it sees):

1. ``choice = choose(paths)`` starts marking; `Choice.untracked` and a missing tracker are disks
   whose every pass is a comparison.
2. ``restart(disk)``, then read the whole disk: the full pass.
3. ``swap(disk)``, then read what it gives: a delta pass; again while `dirty_bytes` is worth one.
4. Freeze, ``swap`` once more, read, then ask ``doubt``: None means that the copy is the disk at
   this instant. Otherwise thaw and compare the whole disk, after ``restart``.
5. ``close()``. A pass that failed gives its extents back to the next with `DirtySet.merge`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from agent.capture.classic import ClassicMarks
from agent.capture.dirty import DirtySet
from agent.capture.leaves import (
    SYSFS,
    Carrier,
    Leaf,
    kernel_name,
    leaves_of,
    read_leaf,
    starts_of,
)
from agent.capture.marks import Alarm, CoreMarks, Marks
from p2v.model.errors import NoSuchDiskError, ToolError

_BTF = Path("kernel/btf/vmlinux")
_LOCKDOWN = Path("kernel/security/lockdown")
_HIDDEN = "its paths have no device number, by which classic programs could know them"


class ChangeTracker(Protocol):
    """Knows what was written to disks, by the kernel's names of them (``sda``)."""

    def swap(self, disk: str) -> DirtySet:
        """Hand over what was written since the last call, as merged extents, and forget it.

        Read the extents after the call, never before.
        """

    def dirty_bytes(self, disk: str) -> int:
        """Return how many bytes the next `swap` would give."""

    def marked(self, disk: str, offset: int, length: int) -> set[int]:
        """Return which granules of a range were written to, by their first byte; forgets nothing.

        What was read before the call and is not among them is as it was at the last `swap`.
        """

    def parts(self, disk: str, length: int) -> list[bool]:
        """Return for each `length` bytes whether the next `swap` would give some of it."""

    def doubt(self, disk: str) -> str | None:
        """Say why the disk must be compared as a whole, None while the tracker can be trusted."""

    def restart(self, disk: str) -> None:
        """Forget what was written and every doubt about it: the whole disk is read after this.

        A disk that was replaced or resized stays in doubt.
        """

    def close(self) -> None:
        """Stop tracking; nothing is left in the kernel."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """A disk, the devices that are watched for it, and at which byte of each it begins.

    It is `exact` if it is itself that device.
    """

    disk: Leaf
    leaves: tuple[Leaf, ...]
    starts: tuple[int, ...] = (0,)

    @property
    def exact(self) -> bool:
        """Whether places on the leaf are places on the disk."""
        return self.leaves == (self.disk,)


class LiveTracker:
    """Marks in the kernel, brought together disk by disk; safe for several threads."""

    def __init__(
        self,
        disks: Sequence[Tracked],
        make: Callable[[Sequence[Leaf]], Marks],
        *,
        sysfs: Path = SYSFS,
    ) -> None:
        """Start tracking.

        Raises:
            OSError: the kernel refuses.
            ToolError: what `make` needs cannot be had.
            ValueError: likewise.
        """
        self._sysfs = sysfs
        self._lock = threading.Lock()
        self._disks = {tracked.disk.name: tracked for tracked in disks}
        self._leaves = list(
            {leaf.name: leaf for tracked in disks for leaf in tracked.leaves}.values()
        )
        self._places = {leaf.name: place for place, leaf in enumerate(self._leaves)}
        self._marks = make(self._leaves)
        self._pending = {name: self._empty(name) for name in self._disks}
        self._trusted = {name: self._alarms(name) for name in self._disks}

    def __enter__(self) -> LiveTracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def swap(self, disk: str) -> DirtySet:
        """Hand over what was written since the last call, and forget it."""
        with self._lock:
            self._collect()
            found, self._pending[disk] = self._pending[disk], self._empty(disk)
        return found

    def dirty_bytes(self, disk: str) -> int:
        """Return how many bytes the next `swap` would give."""
        with self._lock:
            self._collect()
            return self._pending[disk].bytes

    def marked(self, disk: str, offset: int, length: int) -> set[int]:
        """Return which granules of a range were written to, by their first byte."""
        tracked = self._disks[disk]
        with self._lock:
            pending = self._pending[disk]
            if not tracked.exact:
                self._collect()
                return pending.granules(offset, length)
            granules = pending.covering(offset, length)
            bits = self._marks.peek(self._places[disk], granules.start, len(granules))
            marked = {
                number * pending.granule
                for n, number in enumerate(granules)
                if bits[n >> 3] >> (n & 7) & 1
            }
            return marked | pending.granules(offset, length)

    def parts(self, disk: str, length: int) -> list[bool]:
        """Return for each `length` bytes whether some of it was written to."""
        with self._lock:
            self._collect()
            return self._pending[disk].parts(length)

    def doubt(self, disk: str) -> str | None:
        """Say why the disk must be compared as a whole, None while the tracker can be trusted."""
        with self._lock:
            if changed := self._changed(self._disks[disk]):
                return changed
            trusted = self._trusted[disk]
            raised = [
                alarm.value
                for alarm, count in self._alarms(disk).items()
                if count != trusted[alarm]
            ]
        return f"{disk}: {'; '.join(raised)}" if raised else None

    def restart(self, disk: str) -> None:
        """Forget what was written and every doubt about it: the whole disk is read after this."""
        with self._lock:
            self._trusted[disk] = self._alarms(disk)
            self._collect()
            self._pending[disk] = self._empty(disk)

    def close(self) -> None:
        """Stop tracking."""
        with self._lock:
            self._marks.close()

    def _empty(self, disk: str) -> DirtySet:
        return DirtySet(self._disks[disk].disk.size, self._marks.granule)

    def _collect(self) -> None:
        """Bring the kernel's marks to the disks that they concern."""
        taken = {leaf.name: DirtySet(leaf.size, self._marks.granule) for leaf in self._leaves}
        self._marks.collect([found.bits for found in taken.values()])
        for name, tracked in self._disks.items():
            pending = self._pending[name]
            if tracked.exact:
                pending.merge(taken[name])
                continue
            for leaf, start in zip(tracked.leaves, tracked.starts, strict=True):
                pending.add_from(taken[leaf.name], start)

    def _alarms(self, disk: str) -> dict[Alarm, int]:
        total: dict[Alarm, int] = {}
        for leaf in self._disks[disk].leaves:
            for alarm, count in self._marks.alarms(self._places[leaf.name]).items():
                total[alarm] = total.get(alarm, 0) + count
        return total

    def _changed(self, tracked: Tracked) -> str | None:
        """Whether the disk or anything below it is not what it was."""
        try:
            disk = read_leaf(tracked.disk.name, self._sysfs)
            leaves = leaves_of(disk, self._sysfs)
            starts = starts_of(disk, leaves, self._sysfs)
        except OSError:
            return f"{tracked.disk.name} or a disk below it is gone"
        if disk.size != tracked.disk.size:
            return f"{disk.name} was resized from {tracked.disk.size} to {disk.size} bytes"
        if disk.identity != tracked.disk.identity:
            return f"{disk.name} is another disk than before"
        if leaves != tracked.leaves or starts != tracked.starts:
            return f"{disk.name} is on other disks than before"
        return None


class Way(Enum):
    """How changes are tracked."""

    TYPED = "typed programs"
    CLASSIC = "classic programs"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Choice:
    """The tracker there is, and in sentences for people: why this one, and what it leaves out.

    `untracked` names the disks that it does not know; they need a comparison of the whole disk.
    """

    tracker: LiveTracker | None
    way: Way
    reasons: tuple[str, ...]
    untracked: tuple[str, ...] = ()


def choose(disks: Sequence[str | Path], *, sysfs: Path = SYSFS) -> Choice:
    """Start the best tracker that the kernel allows for these block devices.

    Raises:
        NoSuchDiskError: one is no block device, or a partition.
    """
    tracked, reasons, untracked = _resolve(disks, sysfs)
    if not tracked:
        return Choice(None, Way.NONE, tuple(reasons), tuple(untracked))
    makers: Mapping[Way, Callable[[Sequence[Leaf]], Marks]] = {
        Way.TYPED: partial(CoreMarks, sysfs=sysfs),
        Way.CLASSIC: partial(ClassicMarks, sysfs=sysfs),
    }
    for way, make in makers.items():
        if way is Way.CLASSIC and (hidden := _hidden(tracked)):
            tracked = [found for found in tracked if found not in hidden]
            untracked += [found.disk.name for found in hidden]
            reasons += [f"{found.disk.name}: {_HIDDEN}" for found in hidden]
        if not tracked:
            break
        try:
            tracker = LiveTracker(tracked, make, sysfs=sysfs)
        except (OSError, ToolError, ValueError) as error:
            reasons.append(f"{way.value} cannot be used: {_explain(way, error, sysfs)}")
            continue
        names = ", ".join(found.disk.name for found in tracked)
        reasons.append(f"{names}: tracked by {way.value} in the kernel, Linux {os.uname().release}")
        if way is Way.CLASSIC:
            reasons.append(
                "classic programs are skipped while another BPF program runs on the same CPU; "
                "what the kernel counts as written and the tracker has not seen forces a comparison"
            )
        return Choice(tracker, way, tuple(reasons), tuple(untracked))
    untracked += [found.disk.name for found in tracked]
    return Choice(None, Way.NONE, tuple(reasons), tuple(untracked))


def _resolve(
    disks: Sequence[str | Path], sysfs: Path
) -> tuple[list[Tracked], list[str], list[str]]:
    tracked, reasons, untracked = [], [], []
    for given in disks:
        name = kernel_name(given, sysfs)
        try:
            disk = read_leaf(name, sysfs)
            leaves = leaves_of(disk, sysfs)
            starts = starts_of(disk, leaves, sysfs)
        except OSError as error:
            raise NoSuchDiskError(disk=str(given)) from error
        below = ", ".join(leaf.name for leaf in leaves)
        if not leaves:
            reasons.append(f"{name}: cannot be tracked, it has {disk.carrier.value}")
            untracked.append(name)
            continue
        if starts is None:
            reasons.append(
                f"{name}: only its driver knows where on {below} it writes what; capture these "
                "disks instead of it"
            )
            untracked.append(name)
            continue
        tracked.append(Tracked(disk, leaves, starts))
        if disk.carrier is Carrier.DEVICES:
            reasons.append(f"{name}: a mirror, tracked through {below}")
    return tracked, reasons, untracked


def _hidden(tracked: Sequence[Tracked]) -> list[Tracked]:
    return [
        found for found in tracked if any(leaf.carrier is Carrier.PATHS for leaf in found.leaves)
    ]


def _explain(way: Way, error: Exception, sysfs: Path) -> str:
    """Why the kernel refuses, as far as it can be told."""
    if os.geteuid():
        return "only root may load programs into the kernel"
    if way is Way.TYPED and not (sysfs / _BTF).exists():
        return f"Linux {os.uname().release} brings no types ({sysfs / _BTF})"
    try:
        lockdown = (sysfs / _LOCKDOWN).read_text()
    except OSError:
        lockdown = "[none]"
    if "[none]" not in lockdown:
        mode = lockdown.partition("[")[2].partition("]")[0]
        return f"{error}; the kernel is locked down ({mode})"
    return str(error)
