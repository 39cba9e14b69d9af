# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check says: findings, the image's facts, and the verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from p2v.model.command import EXIT_WARNINGS
from p2v.model.errors import ImageError
from p2v.model.plan import ImageFormat

EXIT_CLEAN = 0

_KEPT_PER_CODE = 20
"""A damaged table has millions of entries with one and the same story; the rest is counted."""


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """The image breaks its format, is incomplete, or has lost data."""
    WARNING = "warning"
    """Readable, but some reader or host will object, or something was left half done."""
    NOTE = "note"
    """Worth knowing; nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found; `offset` is a byte of the file, None where it has no place."""

    severity: Severity
    code: str
    offset: int | None
    message: str


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The facts of an image; sizes are bytes.

    `allocated` counts the bytes of the virtual disk that the image stores, `disk_usage` what the
    file takes on the file system that holds it.
    """

    path: Path
    format: ImageFormat
    variant: str
    virtual_size: int
    file_size: int
    disk_usage: int
    allocated: int
    block_size: int = 0
    logical_sector: int = 512
    physical_sector: int = 512
    disk_id: str = ""
    creator: str = ""
    parent: str = ""
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a check.

    `findings` holds the first few of each code, worst first; `counts` counts all of them by code.
    `info` is None where the image is too damaged to tell.
    """

    path: Path
    format: ImageFormat
    info: ImageInfo | None
    findings: tuple[Finding, ...]
    counts: dict[str, int]
    totals: dict[Severity, int]
    deep: bool

    @property
    def errors(self) -> int:
        """Number of errors."""
        return self.totals.get(Severity.ERROR, 0)

    @property
    def warnings(self) -> int:
        """Number of warnings."""
        return self.totals.get(Severity.WARNING, 0)

    @property
    def incomplete(self) -> bool:
        """Whether the image was never committed."""
        return "incomplete" in self.counts

    @property
    def exit_code(self) -> int:
        """Of a process whose verdict this is."""
        if self.errors:
            return ImageError.exit_code
        return EXIT_WARNINGS if self.warnings else EXIT_CLEAN


class Findings:
    """Collects findings in bounded memory."""

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.totals: Counter[Severity] = Counter()

    def error(self, code: str, message: str, offset: int | None = None) -> None:
        """Record that the image is wrong."""
        self._add(Severity.ERROR, code, message, offset)

    def warn(self, code: str, message: str, offset: int | None = None) -> None:
        """Record something that a reader may refuse."""
        self._add(Severity.WARNING, code, message, offset)

    def note(self, code: str, message: str, offset: int | None = None) -> None:
        """Record something worth knowing."""
        self._add(Severity.NOTE, code, message, offset)

    def _add(self, severity: Severity, code: str, message: str, offset: int | None) -> None:
        self.totals[severity] += 1
        self.counts[code] += 1
        if self.counts[code] <= _KEPT_PER_CODE:
            self._kept.append(Finding(severity, code, offset, message))

    def kept(self) -> tuple[Finding, ...]:
        """Return the findings that were kept, worst first, then in the order of discovery."""
        order = list(Severity)
        return tuple(sorted(self._kept, key=lambda finding: order.index(finding.severity)))
