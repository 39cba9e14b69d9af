# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks a raw image: it has no structure of its own, so its size is held against its GPT."""

from __future__ import annotations

import struct
import zlib

from p2v.images.check.report import Findings, ImageInfo
from p2v.images.check.source import Progress, Source, read_back
from p2v.model.plan import ImageFormat

_GPT = struct.Struct("<8sIIIIQQ")
_GPT_HEADER = 92


def check_raw(
    source: Source, findings: Findings, deep: bool, progress: Progress | None
) -> ImageInfo:
    """Check the file as a raw disk and return its facts."""
    if not source.size:
        findings.error("empty", "the image is empty", 0)
    elif source.size % 512:
        findings.warn("file-size", f"{source.size} bytes are no whole number of sectors")
    sector = _check_gpt(source, findings)
    stored = sum(length for _, length in source.data_extents(0, source.size))
    if deep:
        read_back(source, findings, progress)
    return ImageInfo(
        path=source.path,
        format=ImageFormat.RAW,
        variant="device" if source.is_device else "file",
        virtual_size=source.size,
        file_size=source.size,
        disk_usage=source.disk_usage,
        allocated=stored,
        logical_sector=sector,
        physical_sector=sector,
    )


def _check_gpt(source: Source, findings: Findings) -> int:
    """Warn where the disk ends before its GPT does; return the sector size that the GPT is for."""
    for sector in (512, 4096):
        raw = source.read(sector, sector)
        if len(raw) < _GPT_HEADER or raw[:8] != b"EFI PART":
            continue
        _, _, size, stored, _, _, backup = _GPT.unpack_from(raw)
        if not _GPT_HEADER <= size <= sector:
            continue
        if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != stored:
            continue
        if (backup + 1) * sector > source.size:
            findings.error(
                "gpt-cut",
                f"its GPT is for a disk of {(backup + 1) * sector} bytes; the image was cut",
                source.size,
            )
        return sector
    return 512
