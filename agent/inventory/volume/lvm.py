# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM2 physical volumes: the volume group, which extents are in use, and by which volumes.

Format: label in one of the first four sectors, a header that lists data and metadata areas, and in
these the text that vgcfgbackup(8) writes; see lvm2's lib/format_text/layout.h and import_vsn1.c.
Whatever is not known for sure makes no free extents: a kind of segment that places data by itself,
a text with another checksum than its own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agent.inventory.volume.lvmtext import Section, parse
from agent.inventory.volume.window import State, VolumeDamagedError, Window
from p2v.model.units import MiB

_SECTOR = 512  # LVM's own, whatever the disk has
_LABEL = b"LABELONE"
_TYPE = b"LVM2 001"
_AREA_MAGIC = b"\x20LVM2\x20x[5A%r0N*>"
_HEADER = 512  # bytes of a metadata area before its ring of texts
_CRC_START = 0xF597A6CF
_IGNORED = 1
_MAX_TEXT = 4 * MiB
_PLAIN_STATUS = {"READ", "WRITE", "VISIBLE"}


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes from `at` of a logical volume; `offset` is where they are on what holds them."""

    at: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Volume:
    """A logical volume that is no part of another one, and is laid out as it is numbered.

    `segments` are those on this physical volume, in order; `uuid` is the device-mapper's.
    """

    name: str
    uuid: str
    size: int
    segments: tuple[Segment, ...]

    @property
    def whole(self) -> bool:
        """Whether it lies in one piece on this physical volume."""
        return len(self.segments) == 1 and self.segments[0].length == self.size


@dataclass(frozen=True, slots=True)
class Physical:
    """A physical volume; all in bytes from its begin.

    `data` is where its extents begin and `end` where they end; `used` are those that something
    has, as (start, length), in order and joined.
    """

    group: str
    data: int
    end: int
    used: tuple[tuple[int, int], ...]
    volumes: tuple[Volume, ...]

    def free(self) -> Iterator[tuple[int, int]]:
        """Yield the extents that nothing has, as (start, length), in order."""
        at = self.data
        for start, length in self.used:
            if start > at:
                yield at, start - at
            at = start + length
        if self.end > at:
            yield at, self.end - at


def read(window: Window) -> State:
    """Return the volume group as `group`; empty where none is known of.

    `used` is what its extents in use take, None where nobody can tell.

    Raises:
        VolumeDamagedError: there is no label, or its metadata is not what it should be.
    """
    found = _newest(window)
    if found is None:
        return State()
    try:
        physical = _physical(*found, window.size)
    except VolumeDamagedError:
        return State(group=found[1])
    used = physical.data + sum(length for _, length in physical.used)
    return State(group=physical.group, used=used)


def read_physical(window: Window) -> Physical:
    """Return how a physical volume is used.

    Raises:
        VolumeDamagedError: nobody can tell.
    """
    found = _newest(window)
    if found is None:
        raise VolumeDamagedError(problem="it holds no metadata of a volume group")
    return _physical(*found, window.size)


def _newest(window: Window) -> tuple[str, str, Section] | None:
    """Return the physical volume's UUID, its group's name and what the newest text says of it."""
    uuid, areas = _areas(_label(window))
    texts = [text for at, size in areas if (text := _text(window, at, size))]
    groups = [_group(parse(text)) for text in texts]
    if not groups:
        return None
    name, group = max(groups, key=lambda found: _number(found[1], "seqno"))
    return uuid, name, group


# --- where the text is ---------------------------------------------------------------------------


def _label(window: Window) -> bytes:
    for sector in range(4):
        label = window.read(sector * _SECTOR, _SECTOR)
        if label[:8] == _LABEL and label[24:32] == _TYPE:
            return label
    raise VolumeDamagedError(problem="no LVM2 label")


def _areas(label: bytes) -> tuple[str, list[tuple[int, int]]]:
    """Return the physical volume's UUID, and where its metadata areas are."""
    (header,) = struct.unpack_from("<I", label, 20)
    if header + 40 > len(label):
        raise VolumeDamagedError(problem="the LVM2 label makes no sense")
    uuid = label[header : header + 32].decode("ascii", errors="replace")
    at, _ = _list(label, header + 40)  # past UUID and size: data areas
    _, areas = _list(label, at)
    return uuid, areas


def _list(label: bytes, at: int) -> tuple[int, list[tuple[int, int]]]:
    """Return where the list of offset and size pairs at `at` ends, past its empty pair."""
    found: list[tuple[int, int]] = []
    while at + 16 <= len(label):
        offset, size = struct.unpack_from("<QQ", label, at)
        at += 16
        if not offset:
            return at, found
        found.append((offset, size))
    raise VolumeDamagedError(problem="the LVM2 label makes no sense")


def _text(window: Window, at: int, size: int) -> str:
    """Return the text of a metadata area; "" where it holds none."""
    header = window.read(at, _HEADER)
    if header[4:20] != _AREA_MAGIC:
        raise VolumeDamagedError(problem="no LVM2 metadata area")
    offset, length, checksum, flags = struct.unpack_from("<QQII", header, 40)
    if not offset or not length or flags & _IGNORED:
        return ""
    if not _HEADER <= offset < size or length > min(size - _HEADER, _MAX_TEXT):
        raise VolumeDamagedError(problem="LVM's metadata is not where it says")
    first = min(length, size - offset)  # it may go on at the ring's begin
    text = window.read(at + offset, first) + window.read(at + _HEADER, length - first)
    if zlib.crc32(text, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF != checksum:
        raise VolumeDamagedError(problem="the checksum of LVM's metadata is wrong")
    return text.decode("utf-8", errors="replace")


# --- what it says --------------------------------------------------------------------------------


def _group(text: Section) -> tuple[str, Section]:
    groups = [(name, value) for name, value in text.items() if isinstance(value, dict)]
    if len(groups) != 1:
        raise VolumeDamagedError(problem="LVM's metadata is not that of one volume group")
    return groups[0]


def _physical(uuid: str, name: str, group: Section, size: int) -> Physical:
    extent = _number(group, "extent_size") * _SECTOR
    devices = _sections(group, "physical_volumes")
    own = [key for key, value in devices.items() if str(value.get("id")).replace("-", "") == uuid]
    if len(own) != 1 or not extent:
        raise VolumeDamagedError(problem="LVM's metadata does not know this physical volume")
    data = _number(devices[own[0]], "pe_start") * _SECTOR
    end = data + _number(devices[own[0]], "pe_count") * extent
    if end > size:
        raise VolumeDamagedError(problem="LVM's metadata is of a larger physical volume")
    place = _Place(own[0], frozenset(devices), data, end, extent)
    logical = _sections(group, "logical_volumes")
    parts = {key: [_Part.read(s, place, logical) for s in _parts(v)] for key, v in logical.items()}
    inner = {key for found in parts.values() for part in found for key in part.volumes}
    runs = [run for found in parts.values() for part in found for run in part.runs]
    used = tuple(_joined(runs))
    if sum(length for _, length in used) != sum(length for _, length in runs):
        raise VolumeDamagedError(problem="LVM's metadata has two volumes in one place")
    prefix = "LVM-" + str(group.get("id")).replace("-", "")
    return Physical(
        name,
        data,
        end,
        used,
        tuple(
            Volume(
                key,
                prefix + str(value.get("id")).replace("-", ""),
                sum(part.length for part in parts[key]),
                tuple(part.segment for part in parts[key] if part.segment is not None),
            )
            for key, value in logical.items()
            if key not in inner and _is_plain(value) and all(part.linear for part in parts[key])
        ),
    )


def _is_plain(volume: Section) -> bool:
    status = volume.get("status")
    return isinstance(status, tuple) and "VISIBLE" in status and {*status} <= _PLAIN_STATUS


@dataclass(frozen=True, slots=True)
class _Place:
    """This physical volume's key in the metadata, all keys, and its extents, in bytes."""

    key: str
    devices: frozenset[str]
    data: int
    end: int
    extent: int

    def run(self, first: int, count: int) -> tuple[int, int]:
        start, length = self.data + first * self.extent, count * self.extent
        if first < 0 or start + length > self.end:
            raise VolumeDamagedError(problem="LVM's metadata has extents beyond the end")
        return start, length


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment of a logical volume: which extents here it has, and which volumes it is made of."""

    at: int
    length: int
    linear: bool
    runs: tuple[tuple[int, int], ...]
    volumes: tuple[str, ...]

    @property
    def segment(self) -> Segment | None:
        if not self.linear or not self.runs:
            return None
        return Segment(self.at, self.runs[0][0], self.length)

    @classmethod
    def read(cls, section: Section, place: _Place, logical: Section) -> _Part:
        at = _number(section, "start_extent") * place.extent
        count = _number(section, "extent_count")
        length = count * place.extent
        if section.get("type") != "striped":
            named = {*_strings(section)}
            if named & place.devices:
                kind = str(section.get("type"))[:40]
                raise VolumeDamagedError(problem=f"it has segments of the kind '{kind}'")
            return cls(at, length, False, (), tuple(named & logical.keys()))
        stripes = section.get("stripes")
        number = _number(section, "stripe_count")
        if not isinstance(stripes, tuple) or len(stripes) != 2 * number or not number:
            raise VolumeDamagedError(problem="LVM's metadata has stripes that make no sense")
        runs, volumes = [], []
        for name, first in zip(stripes[::2], stripes[1::2], strict=True):
            if name == place.key and isinstance(first, int):
                runs.append(place.run(first, -(-count // number)))
            elif name in logical:
                volumes.append(name)
            elif name not in place.devices:
                raise VolumeDamagedError(problem="LVM's metadata names an unknown device")
        return cls(at, length, number == 1 and not volumes, tuple(runs), tuple(volumes))


def _parts(volume: Section) -> list[Section]:
    """Return the segments of a logical volume, which follow one another from its begin on."""
    count = _number(volume, "segment_count")
    keys = [key for key in volume if key.startswith("segment") and key != "segment_count"]
    names = [f"segment{number}" for number in range(1, min(count, len(volume)) + 1)]
    found = [volume.get(name) for name in names]
    if len(keys) != count or not all(isinstance(each, dict) for each in found):
        raise VolumeDamagedError(problem="LVM's metadata has not the segments that it counts")
    sections = [each for each in found if isinstance(each, dict)]
    at = 0
    for section in sections:
        if _number(section, "start_extent") != at:
            raise VolumeDamagedError(problem="LVM's metadata has a volume with gaps")
        at += _number(section, "extent_count")
    return sections


def _joined(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the runs in order, those joined that touch or overlap."""
    start = end = -1
    for at, length in sorted(runs):
        if at <= end:
            end = max(end, at + length)
            continue
        if end > start:
            yield start, end - start
        start, end = at, at + length
    if end > start:
        yield start, end - start


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _number(section: Section, name: str) -> int:
    value = section.get(name)
    if not isinstance(value, int) or value < 0:
        raise VolumeDamagedError(problem=f"LVM's metadata has no number '{name}'")
    return value


def _sections(section: Section, name: str) -> dict[str, Section]:
    """Return the sections in a section; an absent one has none."""
    found = section.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise VolumeDamagedError(problem=f"LVM's metadata has no sections in '{name}'")
    return found
