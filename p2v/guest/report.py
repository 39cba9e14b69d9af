# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a conversion: what was found, planned, done and checked, and what came of it.

It is one JSON document (docs/guest.md), kept beside the image as `IMAGE.conversion.json` and read
back by what adds to it or shows it. All texts may hold names from the guest's disk: escape them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from p2v.guest.facts import Disk, System, Volume
from p2v.guest.target import Target
from p2v.images.durable import write_durably
from p2v.model.document import decode, encode
from p2v.model.errors import ImageError
from p2v.model.machine import FirmwareKind, Problem

SCHEMA = 1


class Verdict(StrEnum):
    """How a conversion ended."""

    PLANNED = "planned"
    """A dry run: nothing was written."""
    CONVERTED = "converted"
    """The edits are in the image, and every check passed."""
    UNCHANGED = "unchanged"
    """There was nothing to do, and every check passed."""
    REFUSED = "refused"
    """This guest can't be converted for the target. The image is what was captured."""
    FAILED = "failed"
    """An edit or a check failed. The image is what was captured."""


@dataclass(frozen=True, slots=True)
class EditRecord:
    """An edit as it went.

    `action` is what it does, in words; `before` and `after` are what was there, shortened. `done`
    is false where it was only planned, or where another failed first.
    """

    area: str
    what: str
    reason: str
    action: str
    before: str
    after: str
    done: bool


@dataclass(frozen=True, slots=True)
class Check:
    """A fact looked up in the edited guest: whether it is as it must be, and what shows it.

    A check that fails ends the conversion.
    """

    name: str
    passed: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Detail:
    """A named fact of a guest, in words: kernels, boot loader, network configuration, ..."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Found:
    """What the report says of the guest as it was found."""

    system: System
    firmware: FirmwareKind
    disks: tuple[Disk, ...]
    volumes: tuple[Volume, ...]
    others: tuple[str, ...]
    details: tuple[Detail, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A start with the disks on one bus, and its verdict as in `Rehearsal`."""

    bus: str
    verdict: str
    text: str


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A start of the converted guest under QEMU; filled in by `p2v.guest.rehearsal`.

    Attributes:
        verdict: a stable slug: `login`, `emergency-shell`, `kernel-panic`, ...
        text: the verdict in a sentence.
        evidence: the last lines of screen and serial console.
        screenshot: PNG in base64, "" for none.
        accelerator: `kvm` or `tcg`.
        seconds: until the verdict.
        firmware: `bios` or `uefi`.
        bus: what the disks were attached to.
        attempts: all starts; the last is the verdict's.
        concerns: what failed on the way, in the guest's words.
        limits: what the rehearsal does not show.
    """

    verdict: str
    text: str
    evidence: tuple[str, ...] = ()
    screenshot: str = ""
    accelerator: str = ""
    seconds: float = 0.0
    firmware: str = ""
    bus: str = ""
    attempts: tuple[Attempt, ...] = ()
    concerns: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A conversion; see the module.

    Attributes:
        images: the guest's images in the order of its disks.
        target: the VM that it was prepared for.
        verdict, summary: how it ended, and that in a sentence.
        code, hint: a stable slug for a refusal or failure, and the way out.
        found: None where no system could be inspected.
        problems: what a person should know, worst first.
        written: bytes of the disks that the edits changed.
        seconds: from start to end.
        created: seconds since the epoch.
    """

    images: tuple[str, ...]
    target: Target
    verdict: Verdict
    summary: str
    created: float
    code: str = ""
    hint: str = ""
    found: Found | None = None
    edits: tuple[EditRecord, ...] = ()
    checks: tuple[Check, ...] = ()
    problems: tuple[Problem, ...] = ()
    written: int = 0
    seconds: float = 0.0
    rehearsal: Rehearsal | None = None
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return it as a JSON document."""
        return json.dumps(encode(self), indent=2) + "\n"


def report_path(image: Path) -> Path:
    """Return where the report on the guest whose first disk is `image` lies."""
    return image.with_name(image.name + ".conversion.json")


def load_report(path: Path) -> Report:
    """Read a report.

    Raises:
        ImageError: there is none, or it is damaged.
        UsageError: it is of another version.
    """
    try:
        document: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ImageError(path=path, problem="there is no such report") from None
    except ValueError as error:
        raise ImageError(path=path, problem=f"it is no report: {error}") from None
    return decode(Report, document, "report")


def add_rehearsal(image: Path, rehearsal: Rehearsal) -> Report | None:
    """Put a rehearsal into the report on the guest of `image`; return the whole report.

    A guest that was not converted has no report: then nothing is done, and None returned.
    """
    path = report_path(image)
    if not path.exists():
        return None
    report = replace(load_report(path), rehearsal=rehearsal)
    write_durably(path, report.to_json().encode())
    return report
