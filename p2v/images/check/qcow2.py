# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks a qcow2: its header and extensions here, its tables in the modules beside.

The rules are those of QEMU's docs/interop/qcow2.txt and of what QEMU refuses to open.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from p2v.images.check.qcow2_clusters import decompress_all
from p2v.images.check.qcow2_refcounts import check_refcounts
from p2v.images.check.qcow2_tables import Layout, Tables, check_tables
from p2v.images.check.report import Findings, ImageInfo
from p2v.images.check.source import Progress, Source, read_back
from p2v.model.plan import ImageFormat
from p2v.model.units import MiB

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_V2_LENGTH, _V3_LENGTH = 72, 104

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_INCOMPLETE = 1 << 63
"""p2v's own: as every reader refuses an unknown bit, nobody takes the image for a finished one."""
_KNOWN_INCOMPATIBLE = 31 | _INCOMPLETE
_BITMAPS = 1
_BITMAPS_EXTENSION = 0x23852875

_MAX_L1 = 32 * MiB
_MAX_REFCOUNT_TABLE = 8 * MiB
_MAX_BACKING_NAME = 1023
_MAX_EXTENSIONS = 64


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, by the names of the specification."""

    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshots: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    length: int = _V2_LENGTH
    compression: int = 0

    @property
    def cluster(self) -> int:
        """Cluster size in bytes."""
        return 1 << self.cluster_bits


def check_qcow2(
    source: Source, findings: Findings, refcounts: bool, deep: bool, progress: Progress | None
) -> ImageInfo | None:
    """Check the file as a qcow2 and return its facts, None where it is too damaged for them."""
    header = _read_header(source, findings)
    if header is None or not _check_header(header, source, findings):
        return None
    backing = _check_backing(header, source, findings)
    extensions = _check_extensions(header, source, findings)
    tables = check_tables(source, findings, _layout(header))
    if refcounts and not header.incompatible & _INCOMPLETE:
        _check_or_explain(header, source, findings, tables, extensions)
    if deep:
        if not header.crypt_method:
            decompress_all(source, findings, tables, header.compression, progress)
        read_back(source, findings, progress)
    return ImageInfo(
        path=source.path,
        format=ImageFormat.QCOW2,
        variant=f"v{header.version} {'zstd' if header.compression else 'zlib'}",
        virtual_size=header.size,
        file_size=source.size,
        disk_usage=source.disk_usage,
        allocated=tables.allocated,
        block_size=header.cluster,
        parent=backing,
        incomplete=bool(header.incompatible & _INCOMPLETE),
    )


def _layout(header: Header) -> Layout:
    return Layout(
        cluster_bits=header.cluster_bits,
        size=header.size,
        l1_offset=header.l1_offset,
        l1_size=header.l1_size,
        refcount_offset=header.refcount_table_offset,
        refcount_clusters=header.refcount_table_clusters,
        refcount_order=header.refcount_order,
        version=header.version,
        extended_l2=bool(header.incompatible & _EXTENDED_L2),
        data_file=bool(header.incompatible & _DATA_FILE),
        exclusive=not header.snapshots,
    )


# --- header --------------------------------------------------------------------------------------


def _read_header(source: Source, findings: Findings) -> Header | None:
    raw = source.read(0, _V3_LENGTH + 8)
    if len(raw) < _V2_LENGTH:
        findings.error("truncated", "the file ends inside the header", len(raw))
        return None
    magic, version, *fields, snapshots, _snapshots_offset = _V2.unpack_from(raw)
    if magic != b"QFI\xfb":
        findings.error("magic", f"the file begins with {magic!r}, not 'QFI\\xfb'", 0)
        return None
    values: tuple[int, ...] = (version, *fields, snapshots)
    if version == 2:
        return Header(*values)
    if version != 3:
        findings.error("version", f"version {version} is neither 2 nor 3", 4)
        return None
    if len(raw) < _V3_LENGTH:
        findings.error("truncated", "the file ends inside the header", len(raw))
        return None
    features = _V3.unpack_from(raw, _V2_LENGTH)
    compression = raw[104] if features[-1] > 104 and len(raw) > 104 else 0
    values += (*features, compression)
    return Header(*values)


def _check_header(header: Header, source: Source, findings: Findings) -> bool:
    """Return whether the tables can be found."""
    before = findings.counts.total()
    if not 9 <= header.cluster_bits <= 21:
        findings.error("cluster-size", f"cluster_bits is {header.cluster_bits}, not 9 to 21", 20)
        return False
    if header.incompatible & ~_KNOWN_INCOMPATIBLE:
        findings.error("features", f"incompatible features {header.incompatible:#x}", 72)
    if header.incompatible & _EXTENDED_L2 and header.cluster_bits < 14:
        findings.error("cluster-size", "extended L2 entries need clusters of 16 KiB or more", 20)
    if header.refcount_order > 6:
        findings.error("refcount-order", f"refcount_order is {header.refcount_order}", 96)
    _check_place(header, source, findings)
    usable = findings.counts.total() == before
    if header.version == 3:
        _check_length(header, findings)
        _check_compression(header, findings)
    if header.incompatible & _INCOMPLETE:
        findings.error(
            "incomplete",
            "the image is marked incomplete: a migration into it has not finished",
            72,
        )
    elif header.incompatible & _CORRUPT:
        findings.error("marked-corrupt", "the image is marked corrupt", 72)
    if header.incompatible & _DIRTY:
        findings.warn("dirty", "the image was not closed; its refcounts may be wrong", 72)
    if header.crypt_method:
        findings.warn("encrypted", "the image is encrypted; its contents cannot be checked", 32)
    if header.size % 512:
        findings.warn("odd-size", f"{header.size} bytes are no whole number of sectors", 24)
    return usable


def _check_place(header: Header, source: Source, findings: Findings) -> None:
    """Check where the header says that the L1 and the refcount table lie."""
    cluster = header.cluster
    entry = 16 if header.incompatible & _EXTENDED_L2 else 8
    needed = -(-header.size // (cluster * (cluster // entry)))
    if header.l1_size * 8 > _MAX_L1 or header.l1_size < needed:
        findings.error(
            "l1-size", f"the L1 table has {header.l1_size} entries, {needed} are needed", 36
        )
    refcounts = header.refcount_table_clusters * cluster
    # Ours are counted when the migration ends; until then there need be no table.
    least = 0 if header.incompatible & _INCOMPLETE else cluster
    if not least <= refcounts <= _MAX_REFCOUNT_TABLE:
        findings.error("refcount-table", f"the refcount table has {refcounts} bytes", 56)
    for code, place, length, field in (
        ("l1-offset", header.l1_offset, header.l1_size * 8, 40),
        ("refcount-table", header.refcount_table_offset, refcounts, 48),
    ):
        if length and (place % cluster or not cluster <= place <= source.size - length):
            findings.error(code, f"{place:#x} is no cluster that holds the table", field)


def _check_length(header: Header, findings: Findings) -> None:
    if header.length % 8 or not _V3_LENGTH <= header.length <= header.cluster:
        findings.error(
            "header-length", f"header_length {header.length}: no multiple of 8 from 104 on", 100
        )


def _check_compression(header: Header, findings: Findings) -> None:
    if bool(header.incompatible & _COMPRESSION) != bool(header.compression):
        findings.error(
            "compression-type",
            f"compression type {header.compression} does not agree with its feature bit",
            104,
        )
    if header.compression > 1:
        findings.error("compression-type", f"unknown compression {header.compression}", 104)


# --- what follows the header ---------------------------------------------------------------------


def _check_backing(header: Header, source: Source, findings: Findings) -> str:
    """Return the name of the image that this one depends on, empty where it stands alone."""
    if not header.backing_offset:
        return ""
    end = header.backing_offset + header.backing_size
    if header.backing_size > _MAX_BACKING_NAME or end > header.cluster:
        findings.error("backing-name", f"the backing file's name ends at byte {end}", 8)
        return "?"
    name = source.read(header.backing_offset, header.backing_size).decode("utf-8", "replace")
    findings.warn("backing", f"it depends on its backing file '{name}', not checked here", 8)
    return name


def _check_extensions(header: Header, source: Source, findings: Findings) -> set[int]:
    """Return the types of the header extensions."""
    found: set[int] = set()
    at, end = header.length, header.backing_offset or header.cluster
    while at + 8 <= end:
        raw = source.read(at, 8)
        kind, length = struct.unpack(">II", raw) if len(raw) == 8 else (0, 0)
        if not kind:
            break
        if length > end - at - 8 or len(found) >= _MAX_EXTENSIONS:
            findings.error("extension", f"extension {kind:#x} has {length} bytes", at)
            break
        if kind in found:
            findings.error("extension", f"extension {kind:#x} is there twice", at)
        found.add(kind)
        at += 8 + (length + 7 & ~7)
    if header.autoclear & _BITMAPS and _BITMAPS_EXTENSION not in found:
        findings.error("bitmaps", "the bitmaps bit is set, there is no bitmaps extension", 88)
    return found


def _check_or_explain(
    header: Header, source: Source, findings: Findings, tables: Tables, extensions: set[int]
) -> None:
    """Check the refcounts, or say why that cannot be done."""
    reasons = {
        "internal snapshots": header.snapshots > 0,
        "persistent bitmaps": _BITMAPS_EXTENSION in extensions,
        "encryption": header.crypt_method > 0,
    }
    present = [name for name, there in reasons.items() if there]
    if present:
        findings.warn("refcounts-unchecked", f"refcounts are not checked: {', '.join(present)}")
    else:
        check_refcounts(source, findings, tables)
