# SPDX-License-Identifier: GPL-3.0-or-later
"""Where LVM's logical volumes lie on disks, and whether snapshots of them can stand for the disks.

What LVM says is read by `read_report`; the rest is pure. Sources: pvs(8), lvs(8), lvmreport(7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from agent import tools
from agent.device import Place, place_of
from p2v.model.units import KiB, MiB, format_size

_SEPARATOR = "|"
_FREE, _LINEAR = "free", "linear"
_TIMEOUT_S = 60
MIN_SHARE = 0.05
"""A snapshot has to have room for this share of its volume to be written to, at least."""
_TABLE_SHARE = 1 / 128
"""What the table of copied blocks takes: 16 bytes for each 4 KiB, and some more."""
MAX_TAIL = 64 * MiB
"""What may lie behind the last extent of a physical volume, with a second copy of its metadata."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of extents of a physical volume, in bytes from its begin; `volume` is "" where free.

    `at` is where it is in the volume.
    """

    device: str
    start: int
    length: int
    kind: str
    volume: str
    at: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Physical:
    """A physical volume: `data` is where its extents begin; sizes are bytes."""

    device: str
    group: str
    data: int
    size: int
    copies: int


@dataclass(frozen=True, slots=True)
class Logical:
    """A logical volume; `hidden` if it is a part of another one."""

    group: str
    name: str
    size: int
    number: tuple[int, int]
    open: bool
    origin: str
    tags: tuple[str, ...]

    @property
    def hidden(self) -> bool:
        """Whether it is a part of another volume (LVM writes those in brackets)."""
        return self.name.startswith("[")

    @property
    def path(self) -> str:
        """What LVM's commands call it."""
        return f"{self.group}/{self.name.strip('[]')}"


@dataclass(frozen=True, slots=True)
class Group:
    """A volume group; `extent` is bytes, `free` extents."""

    name: str
    extent: int
    free: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that LVM knows."""

    groups: tuple[Group, ...]
    physicals: tuple[Physical, ...]
    logicals: tuple[Logical, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A snapshot to be made, of `extents` extents."""

    volume: Logical
    extents: int


class NoSnapshotError(Exception):
    """Snapshots cannot stand for the disks; the message says why."""


def read_report() -> Report:
    """Ask LVM for all there is.

    Raises:
        ToolError: LVM is not installed, or fails.
    """
    physical = _ask("pvs", "pv_name", "vg_name", "pe_start", "dev_size", "pv_mda_count")
    group = _ask("vgs", "vg_name", "vg_extent_size", "vg_free_count")
    logical = _ask(
        *("lvs", "-a", "vg_name", "lv_name", "lv_size", "lv_kernel_major", "lv_kernel_minor"),
        *("lv_device_open", "origin", "lv_tags"),
    )
    segment = _ask(
        *("pvs", "--segments", "pv_name", "vg_name", "pvseg_start", "pvseg_size", "segtype"),
        *("lv_name", "seg_start"),
    )
    return parse_report(physical, group, logical, segment)


def _ask(command: str, *words: str) -> str:
    options = [word for word in words if word.startswith("-")]
    columns = ",".join(word for word in words if not word.startswith("-"))
    form = ("--noheadings", "--nosuffix", "--units", "b", "--separator", _SEPARATOR)
    argv = [command, *form, *options, "-o", columns]
    return tools.run(argv, _TIMEOUT_S).decode(errors="surrogateescape")


def parse_report(physical: str, group: str, logical: str, segment: str) -> Report:
    """Return what the four lists of `read_report` say.

    Raises:
        ValueError: they make no sense.
    """
    groups = tuple(Group(name, int(size), int(free)) for name, size, free in _rows(group, 3))
    physicals = tuple(
        Physical(name, of, int(data), int(size), int(copies))
        for name, of, data, size, copies in _rows(physical, 5)
        if of
    )
    extents = {found.name: found.extent for found in groups}
    data = {found.device: found.data for found in physicals}
    return Report(
        groups,
        physicals,
        tuple(_logical(row) for row in _rows(logical, 8)),
        tuple(_segment(row, extents, data) for row in _rows(segment, 7) if row[1]),
    )


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.strip():
            row = [field.strip() for field in line.split(_SEPARATOR)]
            if len(row) != columns:
                raise ValueError(f"LVM's answer {line.strip()[:200]!r} has no {columns} columns")
            yield row


def _logical(row: Sequence[str]) -> Logical:
    group, name, size, major, minor, opened, origin, tags = row
    number = (int(major), int(minor))
    return Logical(group, name, int(size), number, opened == "open", origin, tuple(tags.split(",")))


def _segment(row: Sequence[str], extents: dict[str, int], data: dict[str, int]) -> Segment:
    device, group, first, count, kind, name, at = row
    if group not in extents or device not in data:
        raise ValueError(f"LVM does not know the volume group {group} of {device}")
    extent = extents[group]
    volume = f"{group}/{name.strip('[]')}" if name and kind != _FREE else ""
    start = data[device] + int(first) * extent
    return Segment(device, start, int(count) * extent, kind, volume, int(at or 0))


def wanted_snapshots(
    report: Report, groups: Iterable[str], swaps: Iterable[tuple[int, int]]
) -> tuple[Wanted, ...]:
    """Return the snapshots that hold still all that is in use of `groups`.

    Raises:
        NoSnapshotError: a volume in use is of a kind that has no place on the disks of its own, or
            a group has no room.
    """
    found: list[Wanted] = []
    swapping = set(swaps)
    for name in sorted(set(groups)):
        volumes = [
            volume
            for volume in report.logicals
            if volume.group == name and volume.open and volume.number not in swapping
        ]
        for volume in volumes:
            _check_kind(report, volume)
        (group,) = (group for group in report.groups if group.name == name)
        found += _share(group, volumes)
    return tuple(found)


def _check_kind(report: Report, volume: Logical) -> None:
    kinds = {segment.kind for segment in report.segments if segment.volume == volume.path}
    if volume.hidden or kinds != {_LINEAR}:
        said = ", ".join(sorted(kinds)) or "thin or the like"
        raise NoSnapshotError(f"the volume {volume.path} is not linear ({said})")
    if volume.origin:
        raise NoSnapshotError(f"the volume {volume.path} is itself a snapshot")


def _share(group: Group, volumes: Sequence[Logical]) -> Iterator[Wanted]:
    """Divide what is free by the volumes' sizes; nobody gets more than can ever be needed."""
    total = sum(volume.size for volume in volumes)
    for volume in volumes:
        most = -(-int(volume.size * (1 + _TABLE_SHARE) + 64 * KiB) // group.extent) + 1
        least = -(-int(volume.size * MIN_SHARE) // group.extent)
        share = group.free * volume.size // total
        if share < max(least, 1):
            raise NoSnapshotError(
                f"the volume group {group.name} has {format_size(group.free * group.extent)} free, "
                f"at least {format_size(int(total * MIN_SHARE))} are needed"
            )
        yield Wanted(volume, min(share, most))


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a disk that is not read where it is.

    `volume` is the path of the volume whose snapshot has it, from its byte `at` on; "" where it
    reads as zeros, None where it is what was there before the snapshots were made.
    """

    offset: int
    length: int
    volume: str | None
    at: int = 0

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


def parts_of(report: Report, disk: tuple[int, int], volumes: Iterable[str]) -> tuple[Part, ...]:
    """Return the parts of the disk with this number that `volumes`, by their paths, have.

    Ascending. Also in it: what no volume has (free extents), and LVM's own metadata.

    Raises:
        NoSnapshotError: LVM's metadata is too long to be kept.
    """
    snapshotted = set(volumes)
    parts: list[Part] = []
    for physical in report.physicals:
        place = place_of(physical.device)
        if place is None or place.disk != disk:
            continue
        segments = [found for found in report.segments if found.device == physical.device]
        parts += _parts(physical, place, segments, snapshotted)
    parts.sort(key=lambda part: part.offset)
    return tuple(parts)


def _parts(
    physical: Physical, place: Place, segments: Iterable[Segment], snapshotted: set[str]
) -> Iterator[Part]:
    yield Part(place.offset, physical.data, None)
    end = physical.data
    ordered = sorted(segments, key=lambda segment: segment.start)
    for _, same in groupby(ordered, lambda segment: segment.start):
        segment = next(iter(same))
        end = segment.end
        offset = place.offset + segment.start
        if not segment.volume:
            yield Part(offset, segment.length, "")
        elif segment.volume in snapshotted:
            yield Part(offset, segment.length, segment.volume, segment.at)
    if physical.copies > 1 and end < physical.size:
        if physical.size - end > MAX_TAIL:
            raise NoSnapshotError(f"{physical.device} has metadata in an unusual place")
        yield Part(place.offset + end, physical.size - end, None)
