# SPDX-License-Identifier: GPL-3.0-or-later
"""Capture of disks that are written to, through LVM snapshots: where no tracker is to be had.

The image has every logical volume as it was when its snapshot was made, at one instant a volume,
and no trace of the snapshots. File systems beside LVM (/boot, the ESP) cannot be held still: they
are compared again until a comparison finds nothing that was written since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.capture.layout import Kind, Piece, prepare
from agent.capture.snapshots import Snapshots, remove_abandoned
from agent.capture.snapshotsource import SnapshotSource
from agent.capture.source import Source
from agent.capture.volumes import (
    NoSnapshotError,
    Part,
    Report,
    Wanted,
    parts_of,
    read_report,
    wanted_snapshots,
)
from agent.captured import Captured, Sender
from agent.device import place_of
from agent.live.filesystems import writable_on
from agent.live.hooks import Hooks
from agent.mounts import device_number, swaps
from agent.stream.lane import Counters
from agent.stream.work import blocks
from p2v.model.errors import NotLiveError, SourceChangedError, ToolError
from p2v.model.extent import Extent
from p2v.model.plan import Plan
from p2v.model.units import GiB, format_size
from p2v.wire.chunk import CHUNK_SIZE

MAX_BESIDE = 2 * GiB
"""What is beside LVM is read several times, and has to be quiet at the end."""
MAX_COMPARISONS = 5
_LVM = "LVM-"
_SYS = Path("/sys/dev/block")
_SECTOR = 512  # whatever the disk has


@dataclass(frozen=True, slots=True)
class Survey:
    """What stands for the disks: snapshots, and what is read where it is, disk by disk."""

    report: Report
    wanted: tuple[Wanted, ...]
    beside: tuple[tuple[Extent, ...], ...]


def survey(disks: Sequence[Path]) -> Survey:
    """Find out whether snapshots can stand for these disks.

    Raises:
        NoSnapshotError: they cannot; it says why.
    """
    try:
        report = read_report()
    except (ToolError, ValueError) as error:
        raise NoSnapshotError(str(error).rstrip(".")) from error
    numbers = [device_number(disk) for disk in disks]
    groups = {
        physical.group
        for physical in report.physicals
        if (place := place_of(physical.device)) is not None and place.disk in numbers
    }
    if not groups:
        raise NoSnapshotError("no volume group is on it")
    beside = tuple(_beside(disk) for disk in disks)
    swapping = [number for name in swaps() if (number := device_number(name)) is not None]
    return Survey(report, wanted_snapshots(report, groups, swapping), beside)


def _beside(disk: Path) -> tuple[Extent, ...]:
    """Return where file systems are that are mounted for writing and on no volume."""
    found = []
    for node, extent in _parts(disk):
        holders = [link.resolve() for link in (node / "holders").glob("*")]
        others = [holder for holder in holders if not _is_volume(holder)]
        if others:
            name = others[0].name
            raise NoSnapshotError(f"{node.name} is part of {name}, which is no LVM volume")
        if not holders:
            with writable_on([Path("/dev", node.name.replace("!", "/"))]) as systems:
                found += [extent] if systems else []
    if sum(extent.length for extent in found) > MAX_BESIDE:
        size = format_size(sum(extent.length for extent in found))
        raise NoSnapshotError(f"file systems of {size} on {disk.name} are on no LVM volume")
    return tuple(found)


def _parts(disk: Path) -> Iterator[tuple[Path, Extent]]:
    """Yield the partitions of a disk, or itself, as sysfs has them, and where they are."""
    major, minor = device_number(disk) or (0, 0)
    whole = (_SYS / f"{major}:{minor}").resolve()
    for node in sorted(path.parent for path in whole.glob("*/partition")) or [whole]:
        start = 0 if node == whole else int((node / "start").read_text())
        yield node, Extent(start * _SECTOR, int((node / "size").read_text()) * _SECTOR)


def _is_volume(holder: Path) -> bool:
    try:
        return (holder / "dm/uuid").read_text().startswith(_LVM)
    except OSError:
        return False


@contextmanager
def open_snapshots(plan: Plan, hooks: Hooks, refused: Sequence[str] = ()) -> Iterator[Captured]:
    """Open the disks of a plan as they are now, held still by snapshots until the block's end.

    The hooks run around the making of these. `refused` says in words what would have been better,
    and why it was not to be had.

    Raises:
        HookError: a hook failed.
        NotLiveError: snapshots cannot stand for them.
        ToolError: LVM fails.
        P2VError: a disk cannot be read, or is not what the plan says.
    """
    names = ", ".join(disk.name for disk in plan.disks)
    with ExitStack() as stack:
        plain = [stack.enter_context(Source(disk.path, live=True)) for disk in plan.disks]
        try:
            remove_abandoned()
            found = survey([source.path for source in plain])
            volumes = [one.volume.path for one in found.wanted]
            numbers = [device_number(source.path) or (0, 0) for source in plain]
            parts = [parts_of(found.report, number, volumes) for number in numbers]
            kept = [_keep(source, of) for source, of in zip(plain, parts, strict=True)]
            if read_report() != found.report:
                raise NoSnapshotError("LVM's volumes were changed at this moment")
        except NoSnapshotError as error:
            raise NotLiveError(disk=names, problem=str(error)) from error
        with hooks.around():
            snapshots = stack.enter_context(Snapshots(found.wanted))
        sources: list[Source] = [
            stack.enter_context(SnapshotSource(source.path, of, metadata, snapshots))
            for source, of, metadata in zip(plain, parts, kept, strict=True)
        ]
        yield SnapshotCapture(plan, sources, found, snapshots, refused)


def _keep(source: Source, parts: Iterable[Part]) -> dict[int, bytes]:
    """Read what is to be as it was before there are snapshots."""
    kept = {}
    for part in parts:
        if part.volume is None:
            buffer = bytearray(part.length)
            source.readinto(part.offset, buffer)
            kept[part.offset] = bytes(buffer)
    return kept


class SnapshotCapture(Captured):
    """Disks that snapshots hold still."""

    def __init__(
        self,
        plan: Plan,
        sources: Sequence[Source],
        found: Survey,
        snapshots: Snapshots,
        refused: Sequence[str],
    ) -> None:
        layouts = [
            prepare(disk, source, plan.all_blocks)
            for disk, source in zip(plan.disks, sources, strict=True)
        ]
        super().__init__(sources, layouts)
        self._found = found
        self._snapshots = snapshots
        self._refused = tuple(refused)

    def capture(self, sender: Sender, *, compare: bool) -> Counters:
        """Send the snapshots, then what is beside them until it is quiet.

        Raises:
            SnapshotLostError: a volume was written to more than its snapshot has room for.
            SourceChangedError: what is beside them is never quiet.
            P2VError: it can't be done; what was sent is kept.
        """
        self._sync()
        counters = super().capture(sender, compare=compare)
        total = sum(extent.length for places in self._found.beside for extent in places)
        for _ in range(MAX_COMPARISONS if total else 0):
            self._sync()
            again = sender.send("compare", self._again(), total, compare=True)
            counters.add(again)
            if not again.sent and not again.zero:
                break
        else:
            if total:
                names = ", ".join(str(source.path) for source in self.sources)
                problem = "its file systems beside LVM are written to all the time"
                raise SourceChangedError(disk=names, problem=problem)
        for one in self._found.wanted:
            self._snapshots.check(one.volume.path)
        return counters

    @property
    def notes(self) -> tuple[str, ...]:
        """What came out differently from the plan, in words."""
        names = ", ".join(one.volume.path for one in self._found.wanted)
        said = [f"captured through LVM snapshots of {names}"] if names else []
        if self._snapshots.spread_s:
            said.append(f"their instants are up to {self._snapshots.spread_s:.1f} s apart")
        return (*super().notes, *said, *(f"not captured by {text}" for text in self._refused))

    def report(self) -> dict[str, Any]:
        """Return what the migration's report says beyond its figures."""
        volumes = [one.volume.path for one in self._found.wanted]
        return {"lvm": {"volumes": volumes, "spread_s": round(self._snapshots.spread_s, 3)}}

    def _sync(self) -> None:
        with writable_on([source.path for source in self.sources]) as systems:
            for system in systems:
                system.sync()

    def _again(self) -> Iterator[Any]:
        for index, (layout, places) in enumerate(
            zip(self.layouts, self._found.beside, strict=True)
        ):
            yield from blocks(index, within(layout.pieces(), places))


def within(pieces: Iterable[Piece], places: Sequence[Extent]) -> Iterator[Piece]:
    """Yield what is read of `pieces` and lies in `places`, in whole chunks."""
    for piece in pieces:
        if piece.kind is not Kind.READ:
            continue
        if piece.blank or piece.overlay:
            if any(place.offset < piece.end and piece.offset < place.end for place in places):
                yield piece
            continue
        at = piece.offset
        for place in places:
            start = max(at, place.offset // CHUNK_SIZE * CHUNK_SIZE)
            end = min(piece.end, -(-place.end // CHUNK_SIZE) * CHUNK_SIZE)
            if start < end:
                yield replace(piece, offset=start, length=end - start)
                at = end
