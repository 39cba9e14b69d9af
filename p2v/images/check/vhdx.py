# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks a VHDX: identifier, headers and region tables; the rest in the modules beside.

The rules are those of [MS-VHDX] and of what Windows, QEMU and others refuse in practice. Nothing
here is shared with the reader or the writer, so a misreading of the format shows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from p2v.images.check.crc import checksum_matches
from p2v.images.check.report import Findings, ImageInfo
from p2v.images.check.source import Progress, Source, read_back
from p2v.images.check.vhdx_bat import check_bat
from p2v.images.check.vhdx_log import View, replay
from p2v.images.check.vhdx_metadata import Metadata, check_metadata
from p2v.model.plan import ImageFormat
from p2v.model.units import KiB, MiB

_HEADERS = (64 * KiB, 128 * KiB)
_HEADER_SIZE = 4 * KiB
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")

_REGION_TABLES = (192 * KiB, 256 * KiB)
_REGION_TABLE_SIZE = 64 * KiB
_REGION_TABLE_HEAD = struct.Struct("<4sIII")
_REGION_ENTRY = struct.Struct("<16sQII")
_MAX_REGIONS = (_REGION_TABLE_SIZE - _REGION_TABLE_HEAD.size) // _REGION_ENTRY.size
_BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")

_NONE = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Header:
    """A header whose checksum holds ([MS-VHDX] 2.2.2)."""

    offset: int
    sequence: int
    log_guid: UUID
    log_version: int
    version: int
    log_length: int
    log_offset: int


@dataclass(frozen=True, slots=True)
class Region:
    """A range of the file with a purpose."""

    name: str
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


def check_vhdx(
    source: Source, findings: Findings, deep: bool, progress: Progress | None
) -> ImageInfo | None:
    """Check the file as a VHDX and return its facts, None where it is too damaged for them."""
    creator = _check_identifier(source, findings)
    header = _check_headers(source, findings)
    if header is None:
        return None
    log = _check_log_region(source, findings, header)
    view = View(source)
    if header.log_guid != _NONE and log is not None:
        view = replay(source, findings, log.offset, log.length, header.log_guid)
    regions = _check_regions(view, findings, log)
    metadata = None
    if "metadata" in regions:
        metadata = check_metadata(
            view, findings, regions["metadata"].offset, regions["metadata"].length
        )
    if metadata is None:
        return None
    allocated = 0
    if "BAT" in regions:
        taken = [(region.offset, region.end) for region in regions.values()]
        bat = regions["BAT"]
        allocated = check_bat(view, findings, metadata, bat.offset, bat.length, taken)
    if deep:
        _check_holes(source, findings)
        read_back(source, findings, progress)
    return _info(source, metadata, allocated, creator)


def _check_identifier(source: Source, findings: Findings) -> str:
    raw = source.read(0, 520)
    if raw[:8] != b"vhdxfile":
        findings.error("identifier", f"the file begins with {raw[:8]!r}, not 'vhdxfile'", 0)
    if source.size % MiB:
        findings.warn("file-size", f"{source.size} bytes is not a multiple of 1 MiB", source.size)
    return raw[8:].decode("utf-16-le", "replace").split("\0", 1)[0]


# --- headers -------------------------------------------------------------------------------------


def _check_headers(source: Source, findings: Findings) -> Header | None:
    """Return the current header."""
    headers = [_read_header(source, findings, offset) for offset in _HEADERS]
    valid = [header for header in headers if header is not None]
    if not valid:
        findings.error("no-header", "neither header is valid", _HEADERS[0])
        return None
    if len(valid) == 2 and valid[0].sequence == valid[1].sequence:
        findings.warn(
            "header-sequence",
            f"both headers have sequence number {valid[0].sequence}; none is the current one",
            _HEADERS[0],
        )
    header = max(valid, key=lambda header: header.sequence)
    if header.version != 1:
        findings.error("version", f"format version {header.version}, expected 1", header.offset)
        return None
    if header.log_version:
        findings.error("log-version", f"log version {header.log_version}", header.offset)
    return header


def _read_header(source: Source, findings: Findings, offset: int) -> Header | None:
    raw = source.read(offset, _HEADER_SIZE)
    if len(raw) < _HEADER_SIZE:
        findings.error("truncated", "the file ends before the header", offset)
        return None
    signature, stored, sequence, _file, _data, log, log_version, version, length, start = (
        _HEADER.unpack_from(raw)
    )
    problem = ""
    if signature != b"head":
        problem = f"its signature is {signature!r}"
    elif not checksum_matches(raw, stored):
        problem = "its checksum does not match"
    if problem:
        # Legal after a crash in the middle of an update, which the other copy survives.
        findings.warn("header-invalid", f"the header cannot be used: {problem}", offset)
        return None
    return Header(offset, sequence, UUID(bytes_le=log), log_version, version, length, start)


def _check_log_region(source: Source, findings: Findings, header: Header) -> Region | None:
    where = f"log at {header.log_offset:#x}, {header.log_length:#x} bytes"
    if not header.log_length:
        if header.log_guid != _NONE:
            findings.error("log-missing", "the log is in use but has no room", header.offset)
        return None
    if header.log_offset % MiB or header.log_length % MiB or header.log_offset < MiB:
        findings.error("log-region", f"{where}: not on whole MiB after the first", header.offset)
        return None
    if header.log_offset + header.log_length > source.size:
        findings.error("log-region", f"{where}: beyond the end of the file", header.offset)
        return None
    return Region("log", header.log_offset, header.log_length)


# --- region tables -------------------------------------------------------------------------------


def _check_regions(view: View, findings: Findings, log: Region | None) -> dict[str, Region]:
    """Return the known regions that lie well, the header area and the log among them, by name."""
    tables = [_read_region_table(view, findings, offset) for offset in _REGION_TABLES]
    if None not in tables and tables[0] != tables[1]:
        findings.error("region-tables-differ", "the region tables differ", _REGION_TABLES[1])
    table = next((table for table in tables if table is not None), None)
    regions = {"header area": Region("header area", 0, MiB)}
    if log is not None:
        regions[log.name] = log
    if table is None:
        findings.error("no-region-table", "neither region table is valid", _REGION_TABLES[0])
    else:
        _parse_regions(table, view, findings, regions)
        for name in ("BAT", "metadata"):
            if name not in regions:
                findings.error("region-missing", f"there is no usable {name} region")
    _check_overlaps(findings, sorted(regions.values(), key=lambda region: region.offset))
    return regions


def _read_region_table(view: View, findings: Findings, offset: int) -> bytes | None:
    """Return the table from its checksum on, None where it cannot be trusted."""
    raw = view.read(offset, _REGION_TABLE_SIZE)
    problem = ""
    if len(raw) < _REGION_TABLE_SIZE:
        problem = "the file ends before its end"
    else:
        signature, stored, count, reserved = _REGION_TABLE_HEAD.unpack_from(raw)
        if signature != b"regi":
            problem = f"its signature is {signature!r}"
        elif not checksum_matches(raw, stored):
            problem = "its checksum does not match"
        elif count > _MAX_REGIONS or reserved:
            problem = f"it claims {count} entries, reserved field {reserved:#x}"
    if problem:
        findings.error("region-table-invalid", f"the region table is damaged: {problem}", offset)
        return None
    return raw[4:]


def _parse_regions(
    table: bytes, view: View, findings: Findings, regions: dict[str, Region]
) -> None:
    names = {_BAT: "BAT", _METADATA: "metadata"}
    seen: set[UUID] = set()
    (count,) = struct.unpack_from("<I", table, 4)
    for index in range(count):
        at = _REGION_TABLE_HEAD.size - 4 + index * _REGION_ENTRY.size
        raw, offset, length, flags = _REGION_ENTRY.unpack_from(table, at)
        guid = UUID(bytes_le=raw)
        name = names.get(guid, str(guid))
        where = f"region {name} at {offset:#x}, {length:#x} bytes"
        place = _REGION_TABLES[0] + 4 + at
        if guid in seen:
            findings.error("region-duplicate", f"{where}: listed twice", place)
            continue
        seen.add(guid)
        if flags & ~1:
            findings.error("region-reserved", f"{where}: reserved bits {flags:#x}", place)
        if guid in names and not flags & 1:
            findings.warn("region-not-required", f"{where}: not marked required", place)
        if guid not in names:
            if flags & 1:
                findings.error("region-unknown", f"{where}: required but unknown", place)
            else:
                findings.note("region-unknown-optional", f"{where}: unknown", place)
        if offset % MiB or length % MiB or offset < MiB or not length:
            findings.error("region-alignment", f"{where}: not on whole MiB after the first", place)
        elif offset + length > view.size:
            findings.error("region-beyond-end", f"{where}: beyond the end of the file", place)
        else:
            regions[name] = Region(name, offset, length)


def _check_overlaps(findings: Findings, regions: list[Region]) -> None:
    """Compare each with the one that reaches farthest of those before it."""
    last = regions[0]
    for region in regions[1:]:
        if region.offset < last.end:
            findings.error(
                "region-overlap",
                f"region {region.name} overlaps region {last.name}, which ends at {last.end:#x}",
                region.offset,
            )
        last = max(last, region, key=lambda one: one.end)


# --- the whole -----------------------------------------------------------------------------------


def _check_holes(source: Source, findings: Findings) -> None:
    """Warn of holes: copied by a tool that keeps them, the file is sparse on the host."""
    stored = sum(length for _, length in source.data_extents(0, source.size))
    if stored < source.size:
        findings.warn(
            "sparse",
            f"{source.size - stored} bytes of the file are holes; Hyper-V refuses a file with the "
            "sparse attribute (0xC03A001A), so copy it without keeping holes",
        )


def _info(source: Source, metadata: Metadata, allocated: int, creator: str) -> ImageInfo:
    variant = "fixed" if metadata.fixed else "dynamic"
    return ImageInfo(
        path=source.path,
        format=ImageFormat.VHDX,
        variant="differencing" if metadata.has_parent else variant,
        virtual_size=metadata.disk_size,
        file_size=source.size,
        disk_usage=source.disk_usage,
        allocated=allocated,
        block_size=metadata.block_size,
        logical_sector=metadata.logical_sector,
        physical_sector=metadata.physical_sector,
        disk_id=str(metadata.disk_id),
        creator=creator,
        incomplete=metadata.incomplete,
    )
