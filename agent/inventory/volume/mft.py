# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS records: fix-ups, attributes and run lists, every field bounded.

Source: the layout in the ntfs-3g documentation, https://flatcap.github.io/linux-ntfs/ntfs/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.inventory.volume.window import VolumeDamagedError, Window
from p2v.model.units import KiB, MiB

_STRIDE = 512  # fix-ups protect pieces of 512 bytes whatever the sector size
_END = 0xFFFFFFFF
_MAX_RUNS = 100_000
_MAX_RECORD = 64 * KiB
DATA = 0x80


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of a record: its bytes if resident, else its runs."""

    type: int
    name: str
    resident: bytes | None
    runs: tuple[tuple[int, int], ...]
    """(cluster, clusters) in order; cluster -1 is a hole."""
    size: int


@dataclass(frozen=True, slots=True)
class Ntfs:
    """An NTFS volume's geometry, and its reader. Sizes are bytes."""

    window: Window
    cluster: int
    clusters: int
    record: int
    index: int
    mft: int
    """Byte where the master file table begins."""

    def load(self, number: int) -> tuple[Attribute, ...]:
        """Return the attributes of file record `number` (its base record).

        Raises:
            VolumeDamagedError: the record is not in use, damaged, or not where the table says.
        """
        if number < 16:  # the first records lie together at the table's start
            raw = self.window.read(self.mft + number * self.record, self.record)
        else:
            raw = self.read(_only(self.load(0), DATA), number * self.record, self.record)
        return tuple(_attributes(unprotect(raw, b"FILE")))

    def read(self, attribute: Attribute, at: int, length: int) -> bytes:
        """Return `length` bytes of the attribute's value from `at`.

        Raises:
            VolumeDamagedError: the value is shorter, or its runs leave the volume.
        """
        if at + length > attribute.size:
            raise VolumeDamagedError(problem="an NTFS attribute is shorter than it must be")
        if attribute.resident is not None:
            return attribute.resident[at : at + length]
        parts: list[bytes] = []
        position = 0
        for cluster, count in attribute.runs:
            skip, span = at - position, count * self.cluster
            position += span
            if skip >= span:
                continue
            take = min(span - skip, length)
            where = cluster * self.cluster + skip
            parts.append(bytes(take) if cluster < 0 else self.window.read(where, take))
            at, length = at + take, length - take
            if not length:
                return b"".join(parts)
        raise VolumeDamagedError(problem="an NTFS run list ends too early")


def open_ntfs(window: Window) -> Ntfs:
    """Return the volume in `window`.

    Raises:
        VolumeDamagedError: the boot sector is not one of NTFS.
    """
    boot = window.read(0, 512)
    (sector,) = struct.unpack_from("<H", boot, 11)
    per_cluster = boot[13] if boot[13] <= 0x80 else 1 << (256 - boot[13])
    sectors, mft = struct.unpack_from("<QQ", boot, 40)
    record, index = struct.unpack_from("<b3xb", boot, 64)
    cluster = sector * per_cluster
    if boot[3:11] != b"NTFS    " or sector not in (512, 1024, 2048, 4096) or not cluster:
        raise VolumeDamagedError(problem="no NTFS boot sector")
    sizes = [size * cluster if size > 0 else 1 << -size for size in (record, index)]
    if cluster > 2 * MiB or any(not _STRIDE <= size <= _MAX_RECORD for size in sizes):
        raise VolumeDamagedError(problem="the NTFS boot sector makes no sense")
    return Ntfs(window, cluster, sectors // per_cluster, sizes[0], sizes[1], mft * cluster)


def find(attributes: tuple[Attribute, ...], type_: int, name: str = "") -> Attribute | None:
    """Return the attribute of that type and name, None where the record has none."""
    return next((a for a in attributes if a.type == type_ and a.name == name), None)


def _only(attributes: tuple[Attribute, ...], type_: int) -> Attribute:
    if (found := find(attributes, type_)) is None:
        raise VolumeDamagedError(problem=f"an NTFS record lacks attribute {type_:#x}")
    return found


def unprotect(raw: bytes, magic: bytes) -> bytes:
    """Return the record `raw` with its fix-ups undone.

    Raises:
        VolumeDamagedError: another magic, or a sector of another write (a torn record).
    """
    if raw[:4] != magic:
        raise VolumeDamagedError(problem=f"an NTFS record does not begin with {magic.decode()}")
    at, count = struct.unpack_from("<HH", raw, 4)
    if count < 1 or (count - 1) * _STRIDE > len(raw) or at + 2 * count > len(raw):
        raise VolumeDamagedError(problem="an NTFS record's fix-ups make no sense")
    data = bytearray(raw)
    for i in range(1, count):
        end = i * _STRIDE - 2
        if data[end : end + 2] != raw[at : at + 2]:
            raise VolumeDamagedError(problem="an NTFS record was not written completely")
        data[end : end + 2] = raw[at + 2 * i : at + 2 * i + 2]
    return bytes(data)


def _attributes(record: bytes) -> Iterator[Attribute]:
    (at,) = struct.unpack_from("<H", record, 20)
    if not struct.unpack_from("<H", record, 22)[0] & 1:
        raise VolumeDamagedError(problem="an NTFS record is not in use")
    while at + 8 <= len(record):
        type_, length = struct.unpack_from("<II", record, at)
        if type_ == _END:
            return
        if length < 24 or at + length > len(record):
            raise VolumeDamagedError(problem="an NTFS attribute leaves its record")
        yield _attribute(type_, record[at : at + length])
        at += length
    raise VolumeDamagedError(problem="an NTFS record has no end")


def _attribute(type_: int, raw: bytes) -> Attribute:
    (name_at,) = struct.unpack_from("<H", raw, 10)
    name = raw[name_at : name_at + 2 * raw[9]].decode("utf-16-le", errors="replace")
    if not raw[8]:
        size, at = struct.unpack_from("<IH", raw, 16)
        if at + size > len(raw):
            raise VolumeDamagedError(problem="an NTFS value leaves its attribute")
        return Attribute(type_, name, raw[at : at + size], (), size)
    if len(raw) < 64:
        raise VolumeDamagedError(problem="an NTFS attribute is too short")
    (runs_at,) = struct.unpack_from("<H", raw, 32)
    (size,) = struct.unpack_from("<Q", raw, 48)
    return Attribute(type_, name, None, tuple(_runs(raw[runs_at:])), size)


def _runs(raw: bytes) -> Iterator[tuple[int, int]]:
    at, cluster = 0, 0
    for _ in range(_MAX_RUNS):
        if at >= len(raw) or not raw[at]:
            return
        count_size, offset_size = raw[at] & 15, raw[at] >> 4
        end = at + 1 + count_size + offset_size
        if end > len(raw) or not 0 < count_size <= 8 or offset_size > 8:
            break
        count = int.from_bytes(raw[at + 1 : at + 1 + count_size], "little")
        cluster += int.from_bytes(raw[at + 1 + count_size : end], "little", signed=True)
        if cluster < 0 or not count:
            break
        yield (cluster if offset_size else -1), count
        at = end
    raise VolumeDamagedError(problem="an NTFS run list makes no sense")
