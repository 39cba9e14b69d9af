# SPDX-License-Identifier: GPL-3.0-or-later
"""The structures of qcow2, as QEMU's docs/interop/qcow2.txt has them; all numbers big endian.

Beside the format's own fields there are two of ours, both only in an image that is being written:
incompatible feature bit 63, named in the feature name table, which makes every reader refuse the
image and say why; and a header extension with the end of what is durable (see qcow2_writer).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from p2v.model.errors import ImageError
from p2v.model.units import KiB, MiB

MAGIC = b"QFI\xfb"
HEADER_ROOM = 512
"""We write header and extensions as one sector, which a disk replaces as a whole."""

DIRTY = 1 << 0
CORRUPT = 1 << 1
DATA_FILE = 1 << 2
COMPRESSION_TYPE = 1 << 3
EXTENDED_L2 = 1 << 4
INCOMPLETE = 1 << 63
"""Ours: the migration into this image has not finished."""
UNFINISHED = INCOMPLETE | CORRUPT
"""The second is for whoever knows only the format's own bits."""

ZLIB = 0
ZSTD = 1

COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1 << 0
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
SECTOR = 512

MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 9, 21
MAX_L1_BYTES = 32 * MiB  # QEMU refuses more
MAX_REFCOUNT_TABLE_BYTES = 8 * MiB  # likewise

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_FEATURE = struct.Struct(">BB46s")
_PROGRESS = struct.Struct(">Q")
_V3_LENGTH = _V2.size + _V3.size + 8  # with the compression type and its padding
_EXT_END = 0
_EXT_FEATURES = 0x6803F857
_EXT_BITMAPS = 0x23852875
_EXT_PROGRESS = 0x70327631
_FEATURE_NAMES = {INCOMPLETE: b"incomplete p2v migration", COMPRESSION_TYPE: b"compression type"}


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields that matter here; offsets and sizes are bytes unless they say clusters.

    `l1_size` counts entries. `durable` is our own extension: the end of what survives a crash, None
    where the image has none.
    """

    size: int
    cluster_bits: int
    l1_size: int
    l1_offset: int
    version: int = 3
    incompatible: int = 0
    compression: int = ZLIB
    refcount_offset: int = 0
    refcount_clusters: int = 0
    backing: str = ""
    encryption: int = 0
    snapshots: int = 0
    bitmaps: bool = False
    durable: int | None = None

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def table_entries(self) -> int:
        """Clusters that one L2 table maps."""
        return 1 << (self.cluster_bits - 3)

    def pack(self) -> bytes:
        """Return the header with its extensions as one sector of a version 3 image."""
        base = _V2.pack(
            MAGIC, 3, 0, 0, self.cluster_bits, self.size, 0, self.l1_size, self.l1_offset,
            self.refcount_offset, self.refcount_clusters, 0, 0,
        )  # fmt: skip
        base += _V3.pack(self.incompatible, 0, 0, 4, _V3_LENGTH)
        base += bytes([self.compression]) + bytes(7)
        features = b"".join(
            _FEATURE.pack(0, bit.bit_length() - 1, name)
            for bit, name in _FEATURE_NAMES.items()
            if self.incompatible & bit
        )
        if features:
            base += _extension(_EXT_FEATURES, features)
        if self.durable is not None:
            base += _extension(_EXT_PROGRESS, _PROGRESS.pack(self.durable))
        return (base + _extension(_EXT_END, b"")).ljust(HEADER_ROOM, b"\0")


def parse_header(data: bytes, path: Path) -> Header:
    """Read the header from the file's first bytes; only the frame is judged, not the features.

    Raises:
        ImageError: this is no qcow2 header, or a field leaves its bounds.
    """
    if len(data) < _V2.size or not data.startswith(MAGIC):
        raise ImageError(path=path, problem="it is no qcow2 image")
    (_, version, backing_at, backing_length, bits, size, encryption, l1_size, l1_offset,
     refcounts_at, refcount_clusters, snapshots, _) = _V2.unpack_from(data)  # fmt: skip
    if version not in (2, 3):
        raise ImageError(path=path, problem=f"qcow2 version {version} is unknown")
    if not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
        raise ImageError(path=path, problem=f"cluster size 2^{bits} is out of bounds")
    incompatible, compression, length = 0, ZLIB, _V2.size
    if version == 3:
        incompatible, compression, length = _parse_v3(data, path)
    extensions = _parse_extensions(data[: 1 << bits], length)
    durable = extensions.get(_EXT_PROGRESS, b"")
    return Header(
        size=size,
        cluster_bits=bits,
        l1_size=l1_size,
        l1_offset=l1_offset,
        version=version,
        incompatible=incompatible,
        compression=compression,
        refcount_offset=refcounts_at,
        refcount_clusters=refcount_clusters,
        backing=_backing(data, backing_at, backing_length),
        encryption=encryption,
        snapshots=snapshots,
        bitmaps=_EXT_BITMAPS in extensions,
        durable=_PROGRESS.unpack(durable)[0] if len(durable) == _PROGRESS.size else None,
    )


def compressed_entry(offset: int, length: int, cluster_bits: int) -> int:
    """Return the L2 entry of a compressed cluster of `length` bytes stored at byte `offset`."""
    shift = 62 - (cluster_bits - 8)
    sectors = (offset + length - 1) // SECTOR - offset // SECTOR
    if offset >> shift or sectors >> (cluster_bits - 8):
        raise ValueError(f"{length} bytes at {offset} fit no compressed cluster descriptor")
    return COMPRESSED | sectors << shift | offset


def compressed_extent(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Return (offset, length) of a compressed L2 entry; it ends with a sector."""
    shift = 62 - (cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = ((entry & (COMPRESSED - 1)) >> shift) + 1
    return offset, sectors * SECTOR - offset % SECTOR


def l1_entries(size: int, cluster_bits: int) -> int:
    """Return how many L1 entries map a disk of `size` bytes."""
    return -(-size // (1 << (2 * cluster_bits - 3)))


def _parse_v3(data: bytes, path: Path) -> tuple[int, int, int]:
    """Return (incompatible features, compression type, header length) of version 3."""
    if len(data) < _V2.size + _V3.size:
        raise ImageError(path=path, problem="the file ends inside the qcow2 header")
    incompatible, _, _, _, length = _V3.unpack_from(data, _V2.size)
    if not _V2.size + _V3.size <= length <= 64 * KiB or length % 8:
        raise ImageError(path=path, problem=f"a qcow2 header of {length} bytes is out of bounds")
    compression = ZLIB
    if length >= _V3_LENGTH and len(data) >= _V3_LENGTH:
        compression = data[_V2.size + _V3.size]
    if (compression != ZLIB) != bool(incompatible & COMPRESSION_TYPE) or compression > ZSTD:
        raise ImageError(path=path, problem=f"compression type {compression} is unknown")
    return incompatible, compression, length


def _parse_extensions(data: bytes, offset: int) -> dict[int, bytes]:
    """Return the extensions that are whole within `data`, up to the end marker."""
    found: dict[int, bytes] = {}
    while offset + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, offset)
        offset += _EXTENSION.size
        if kind == _EXT_END or offset + length > len(data):
            break
        found[kind] = data[offset : offset + length]
        offset += -(-length // 8) * 8
    return found


def _extension(kind: int, data: bytes) -> bytes:
    """Return a header extension, padded to 8 bytes."""
    return _EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8)


def _backing(data: bytes, offset: int, length: int) -> str:
    """Return the backing file's name, as far as it can be read; empty where there is none."""
    if offset == 0:
        return ""
    return data[offset : offset + min(length, 1023)].decode(errors="replace") or "another image"
