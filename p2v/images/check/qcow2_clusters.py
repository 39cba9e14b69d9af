# SPDX-License-Identifier: GPL-3.0-or-later
"""Decompresses every compressed cluster of a qcow2 as QEMU would.

``qemu-img check`` never does, and so calls an image good whose guest then meets I/O errors.
Memory: one cluster, at the most 2 MiB, and its compressed form.
"""

from __future__ import annotations

import zlib

import zstandard

from p2v.images.check.qcow2_tables import COMPRESSED, Tables
from p2v.images.check.report import Findings
from p2v.images.check.source import Progress, Source
from p2v.model.units import MiB

_ZLIB, _ZSTD = 0, 1
_ZLIB_WINDOW = -12  # raw deflate; QEMU's inflate is given 4 KiB of window
_MAX_WINDOW = 128 * MiB  # libzstd's limit for a stream, and so QEMU's
_MAGIC = b"\x28\xb5\x2f\xfd"


class DamagedClusterError(ValueError):
    """A compressed cluster that QEMU would answer with an I/O error; the text says why."""


def decompress_all(
    source: Source, findings: Findings, tables: Tables, kind: int, progress: Progress | None
) -> None:
    """Decompress every compressed cluster, and record those that cannot be."""
    if kind not in (_ZLIB, _ZSTD):
        return
    layout = tables.layout
    step = 2 if layout.extended_l2 else 1
    for guest, _, entries in tables.l2_tables():
        for index, entry in enumerate(entries[::step]):
            if not entry & COMPRESSED:
                continue
            start, end = layout.compressed(entry)
            try:
                check_cluster(source.read(start, end - start), layout.cluster, kind)
            except (DamagedClusterError, OSError) as error:
                place = guest + index * layout.cluster
                findings.error("cluster-damaged", f"compressed cluster {place:#x}: {error}", start)
        if progress is not None:
            progress(min(guest, layout.size), layout.size)


def check_cluster(raw: bytes, size: int, kind: int) -> None:
    """Check that `raw` decompresses to `size` bytes; what follows in `raw` does not matter.

    Raises:
        DamagedClusterError: it does not.
    """
    if kind == _ZSTD:
        _check_zstd(raw, size)
    else:
        _check_zlib(raw, size)


def _check_zlib(raw: bytes, size: int) -> None:
    try:
        got = len(zlib.decompressobj(_ZLIB_WINDOW).decompress(raw, size))
    except zlib.error as error:
        raise DamagedClusterError(str(error)) from error
    if got != size:
        raise DamagedClusterError(f"it holds {got} bytes, not {size}")


def _check_zstd(raw: bytes, size: int) -> None:
    """Take whole frames until the cluster is full (RFC 8878; several may make up a cluster)."""
    at, left = 0, size
    while left:
        if at >= len(raw):
            raise DamagedClusterError(f"{left} bytes are missing at its end")
        end = frame_end(raw, at)
        if raw[at : at + 4] == _MAGIC:
            left -= _frame_content(raw[at:end], left)
        at = end


def _frame_content(frame: bytes, limit: int) -> int:
    """Return how many bytes the frame holds, at the most `limit`."""
    try:
        parameters = zstandard.get_frame_parameters(frame)
        if parameters.dict_id:
            raise DamagedClusterError(f"it needs dictionary {parameters.dict_id}")
        if parameters.window_size > _MAX_WINDOW:
            raise DamagedClusterError(f"it needs a window of {parameters.window_size} bytes")
        stated = parameters.content_size
        if stated != zstandard.CONTENTSIZE_UNKNOWN and stated > limit:
            raise DamagedClusterError(f"it holds {stated} bytes, not {limit}")
        return len(zstandard.ZstdDecompressor().decompress(frame, max_output_size=limit))
    except zstandard.ZstdError as error:
        raise DamagedClusterError(str(error)) from error


def frame_end(raw: bytes, start: int) -> int:
    """Return where the zstd or skippable frame at `start` ends, by its own structure.

    Raises:
        DamagedClusterError: there is no frame, or it does not end within `raw`.
    """
    head = raw[start : start + 18].ljust(18, b"\0")
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return _within(raw, start + 8 + int.from_bytes(head[4:8], "little"))
    if head[:4] != _MAGIC:
        raise DamagedClusterError("there is no zstd frame")
    descriptor = head[4]
    single = descriptor >> 5 & 1
    at = start + 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    at += (single, 2, 4, 8)[descriptor >> 6]
    last = 0
    while not last:
        block = int.from_bytes(raw[_within(raw, at + 3) - 3 : at + 3], "little")
        last, kind = block & 1, block >> 1 & 3
        at = _within(raw, at + 3 + (1 if kind == 1 else block >> 3))
    return _within(raw, at + (4 if descriptor & 4 else 0))


def _within(raw: bytes, at: int) -> int:
    if at > len(raw):
        raise DamagedClusterError("its zstd frame goes on beyond its sectors")
    return at
