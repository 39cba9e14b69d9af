# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognises an image's format and runs the checks of that format over it."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from pathlib import Path

from p2v.images.base import PARTIAL_SUFFIX
from p2v.images.check.qcow2 import check_qcow2
from p2v.images.check.raw import check_raw
from p2v.images.check.report import Findings, ImageInfo, Report
from p2v.images.check.source import Progress, Source
from p2v.images.check.vhdx import check_vhdx
from p2v.model.errors import ImageError
from p2v.model.plan import ImageFormat

_MAGICS = {b"vhdxfile": ImageFormat.VHDX, b"QFI\xfb": ImageFormat.QCOW2}
_FOREIGN = {b"conectix": "VHD", b"KDMV": "VMDK", b"COWD": "VMDK", b"<<< ": "VDI"}
_SUFFIXES = {".vhdx": ImageFormat.VHDX, ".avhdx": ImageFormat.VHDX, ".qcow2": ImageFormat.QCOW2}


class _Depth(IntEnum):
    FACTS = 0
    TABLES = 1
    DATA = 2


def check_image(path: Path, *, deep: bool = False, progress: Progress | None = None) -> Report:
    """Check the image against its format, down to the last table entry, and report.

    `deep` also reads everything back and decompresses every compressed cluster. Memory stays below
    200 MB whatever the image's size: a bit for each MiB of a VHDX, windows over a qcow2's clusters.

    Raises:
        NoSuchDiskError: there is no such file.
        ImageError: it cannot be opened, or is of a format that p2v does not know.
    """
    return _run(path, _Depth.DATA if deep else _Depth.TABLES, progress)


def inspect_image(path: Path) -> ImageInfo:
    """Return the facts of an image, without judging it further than they need.

    Raises:
        NoSuchDiskError: there is no such file.
        ImageError: it cannot be opened, or is too damaged to tell.
    """
    report = _run(path, _Depth.FACTS, None)
    if report.info is None:
        raise ImageError(path=path, problem=report.findings[0].message)
    return report.info


def _run(path: Path, depth: _Depth, progress: Progress | None) -> Report:
    findings = Findings()
    info = None
    with Source(path) as source:
        kind = _detect(source)
        try:
            info = _check(source, kind, findings, depth, progress)
        except OSError as error:
            findings.error("unreadable", f"the image cannot be read: {error.strerror}")
    if path.name.endswith(PARTIAL_SUFFIX) and "incomplete" not in findings.counts:
        findings.error(
            "incomplete", f"its name ends in {PARTIAL_SUFFIX}: a migration has not finished"
        )
        info = info and replace(info, incomplete=True)
    return Report(
        path=path,
        format=kind,
        info=info,
        findings=findings.kept(),
        counts=dict(findings.counts),
        totals=dict(findings.totals),
        deep=depth is _Depth.DATA,
    )


def _check(
    source: Source, kind: ImageFormat, findings: Findings, depth: _Depth, progress: Progress | None
) -> ImageInfo | None:
    deep = depth is _Depth.DATA
    match kind:
        case ImageFormat.VHDX:
            return check_vhdx(source, findings, deep, progress)
        case ImageFormat.QCOW2:
            return check_qcow2(source, findings, depth >= _Depth.TABLES, deep, progress)
        case ImageFormat.RAW:
            return check_raw(source, findings, deep, progress)


def _detect(source: Source) -> ImageFormat:
    """Return the format by magic, or by name where the file's beginning is damaged."""
    try:
        head = source.read(0, 8)
    except OSError as error:
        raise ImageError(path=source.path, problem=f"cannot be read: {error.strerror}") from error
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            return kind
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            but = "; 'p2v convert' and 'p2v image compare' read it" if name == "VMDK" else ""
            problem = f"is a {name}, and only VHDX, qcow2 and raw images are checked{but}"
            raise ImageError(path=source.path, problem=problem)
    name = source.path.name.removesuffix(PARTIAL_SUFFIX)
    return _SUFFIXES.get(Path(name).suffix.lower(), ImageFormat.RAW)
