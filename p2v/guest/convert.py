# SPDX-License-Identifier: GPL-3.0-or-later
"""Convert a guest: inspect, plan, edit an overlay, check, and bring the edits into the images.

The images are what was captured until every check has passed; from then on a crash is made good by
running this again (see `p2v.guest.commit`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from p2v.guest import commit
from p2v.guest.appliance import Appliance, Drive
from p2v.guest.apply import apply, planned
from p2v.guest.edit import Edits, Refusal
from p2v.guest.facts import Family, GuestFacts
from p2v.guest.filesystems import check_filesystems, require_sound
from p2v.guest.inspect import complete, find_system, mount
from p2v.guest.machine import machine
from p2v.guest.overlay import create_overlay, overlay_path
from p2v.guest.plan import plan
from p2v.guest.report import (
    Check,
    EditRecord,
    Found,
    Report,
    Verdict,
    report_path,
)
from p2v.guest.report_page import write_page
from p2v.guest.steps import checker, planner
from p2v.guest.takeover import claimed, taken_over
from p2v.guest.target import NicAddress, Platform, Target
from p2v.images.check import check_image
from p2v.images.durable import write_durably
from p2v.images.open import open_reader
from p2v.model.document import decode, encode
from p2v.model.errors import ImageError, P2VError
from p2v.model.machine import FirmwareKind, Problem, Severity
from p2v.model.plan import ImageFormat

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be converted, and to what.

    Attributes:
        images: the guest's disks in order, its boot disk first.
        platform: the hypervisor.
        firmware: of the VM; None for what the guest boots with.
        root: the device of the system to convert where there are several, "" otherwise.
        nics: the source's interfaces, as far as they are known.
        drivers: see `Target`.
        passphrases: tried on encrypted volumes.
        formats: of the images where they are known; the first bytes decide otherwise.
        dry_run: plan only; nothing is written.
    """

    images: tuple[Path, ...]
    platform: Platform
    firmware: FirmwareKind | None = None
    root: str = ""
    nics: tuple[NicAddress, ...] = ()
    drivers: str = ""
    passphrases: tuple[str, ...] = ()
    formats: tuple[ImageFormat, ...] = ()
    dry_run: bool = False


def convert(request: Request, progress: Progress | None = None) -> Report:
    """Convert the guest in the images; return the report, which also lies beside the first image.

    A conversion that was cut off while its edits went into the images is finished instead. Of a
    VMDK a copy in the platform's format is made first, beside it, and that is converted.

    Raises:
        NoGuestError: no system was found, or several, or it is encrypted.
        GuestError: the system can't be read, or its file systems are damaged.
        ImageError: an image is damaged, incomplete, or being written.
        NoRoomError: there is no room for the edits; run it again when there is.
    """
    tell = progress or (lambda _what, _done, _total: None)
    given = request.images
    with taken_over(given, request.platform, tell, dry_run=request.dry_run) as images:
        report = _convert(replace(request, images=images), tell)
    return replace(report, images=tuple(map(str, given))) if request.dry_run else report


def _convert(request: Request, tell: Progress) -> Report:
    path = request.images[0]
    if not request.dry_run and (journal := commit.load(commit.journal_path(path))):
        return _commit(path, journal, tell)
    with ExitStack() as stack:
        formats = tuple(_open_formats(request))
        for image in request.images:
            stack.enter_context(claimed(image))
        tell("starting the appliance", 0, 0)
        session = _Session(request, formats, tell)
        try:
            report, edited = session.run()
        finally:
            session.clear()
    if edited is None:
        if not request.dry_run:
            _keep(report)
        return report
    return _commit(path, edited, tell)


def _commit(path: Path, journal: commit.Journal, tell: Progress) -> Report:
    """Bring the journal's edits into the images, and keep the report."""
    where = commit.journal_path(path)
    commit.finish(where, journal, lambda done, total: tell("writing the edits", done, total))
    report = decode(Report, journal.report, "report")
    _keep(report)
    commit.end(where)
    return report


def _keep(report: Report) -> None:
    write_durably(report_path(Path(report.images[0])), report.to_json().encode())
    write_page(report)


def _open_formats(request: Request) -> Iterator[ImageFormat]:
    """Yield the images' formats, having held each image against its format.

    Raises:
        ImageError: one is damaged, incomplete or not supported. QEMU is never given such a file.
    """
    for index, image in enumerate(request.images):
        given = request.formats[index] if request.formats else None
        with closing(open_reader(image, given)) as reader:
            known = reader.format
        if known is not ImageFormat.RAW:
            result = check_image(image)
            if result.errors:
                problem = f"it has {result.errors} errors; 'p2v image check' lists them"
                raise ImageError(path=image, problem=problem)
        yield known


class _Session:
    """One conversion up to the point where the edits are ready to go into the images."""

    def __init__(self, request: Request, formats: tuple[ImageFormat, ...], tell: Progress) -> None:
        self._request = request
        self._formats = formats
        self._tell = tell
        self._began = time.monotonic()
        self._created = time.time()
        self._checks: list[Check] = []
        self._overlays: list[Path] = []

    def run(self) -> tuple[Report, commit.Journal | None]:
        """Return the report and, if there are edits to be kept, the journal, already written."""
        with Appliance(
            str(self._request.images[0]), self._drives(), read_only=self._request.dry_run
        ) as appliance:
            facts = self._inspect(appliance)
            target = Target(
                self._request.platform,
                self._request.firmware or facts.firmware,
                self._request.nics,
                self._request.drivers,
            )
            edits = plan(facts, target)
            report = self._blank(facts, target, edits)
            if isinstance(edits, Refusal):
                return self._timed(report), None
            if self._request.dry_run:
                records = tuple(planned(edits.edits))
                count = (
                    f"{len(records)} edits are planned" if records else "Nothing is to be changed"
                )
                summary = f"{count}; nothing was written."
                return self._timed(report, edits=records, summary=summary), None
            report = self._edit(appliance, facts, target, edits, report)
            if report.verdict is not Verdict.CONVERTED:
                appliance.close(flush=False)  # it may be what failed, and its drives are dropped
                return report, None
        return self._journal(report)

    def clear(self) -> None:
        """Delete the overlays, unless a journal needs them."""
        if commit.journal_path(self._request.images[0]).exists():
            return
        for overlay in self._overlays:
            overlay.unlink(missing_ok=True)

    def _drives(self) -> list[Drive]:
        pairs = list(zip(self._request.images, self._formats, strict=True))
        if self._request.dry_run:
            return [Drive(image, image_format) for image, image_format in pairs]
        for image, _ in pairs:
            self._overlays.append(overlay_path(image))
        return [Drive(create_overlay(image, each), "qcow2") for image, each in pairs]

    def _inspect(self, appliance: Appliance) -> GuestFacts:
        self._tell("looking for the operating system", 0, 0)
        request = self._request
        facts = find_system(appliance, request.root, request.passphrases)
        self._tell("checking file systems", 0, 0)
        before = list(check_filesystems(appliance, facts, "before"))
        require_sound(before, appliance.name)
        self._checks += before
        self._tell(f"inspecting {facts.system.name}", 0, 0)
        # The drives are overlays, even in a dry run. But to mount NTFS for writing throws away its
        # log, and whether that holds anything is still to be found out.
        mount(appliance, facts, read_only=facts.system.family is Family.WINDOWS)
        return complete(appliance, facts)

    def _blank(self, facts: GuestFacts, target: Target, edits: Edits | Refusal) -> Report:
        """Return the report as far as it stands when the plan is made."""
        found = Found(
            facts.system,
            facts.firmware,
            facts.disks,
            facts.volumes,
            facts.others,
            (*planner(facts.system.family).details(facts, target), *machine(facts, target)),
        )
        base = Report(
            images=tuple(str(image) for image in self._request.images),
            target=target,
            verdict=Verdict.PLANNED,
            summary="",
            created=self._created,
            found=found,
            checks=tuple(self._checks),
        )
        if isinstance(edits, Refusal):
            return replace(
                base,
                verdict=Verdict.REFUSED,
                code=edits.code,
                summary=f"{edits.text}.",
                hint=edits.hint,
            )
        return replace(base, problems=tuple(sorted(edits.problems, key=_gravity)))

    def _edit(
        self,
        appliance: Appliance,
        facts: GuestFacts,
        target: Target,
        edits: Edits,
        report: Report,
    ) -> Report:
        """Apply the edits and check the guest; return how that went."""
        if facts.system.family is Family.WINDOWS:
            mount(appliance, facts, read_only=False)
        records, error = apply(
            appliance,
            facts.system.family,
            edits.edits,
            lambda done, total: self._tell("editing", done, total),
        )
        report = replace(report, edits=tuple(records))
        if error is None:
            try:
                return self._checked(appliance, facts, target, report)
            except P2VError as failure:
                error = failure
        return self._timed(
            report,
            verdict=Verdict.FAILED,
            code=error.code,
            summary=str(error),
            checks=tuple(self._checks),
            hint="The image is what was captured.",
        )

    def _checked(
        self, appliance: Appliance, facts: GuestFacts, target: Target, report: Report
    ) -> Report:
        self._tell("checking the edited guest", 0, 0)
        self._checks += checker(facts.system.family).check(appliance, facts, target)
        if report.edits:
            with appliance.calling("unmounting its file systems") as handle:
                handle.umount_all()
            self._checks += check_filesystems(appliance, facts, "after")
        failed = [check for check in self._checks if not check.passed]
        return self._timed(
            report, checks=tuple(self._checks), **_outcome(report.edits, self._checks, failed)
        )

    def _journal(self, report: Report) -> tuple[Report, commit.Journal]:
        """Make the edits ready to be copied into the images, whatever happens from now on."""
        parts = list(zip(self._request.images, self._formats, self._overlays, strict=True))
        edited = commit.prepare(parts)
        journal = commit.Journal(edited, {})
        report = self._timed(report, written=journal.length)
        journal = replace(journal, report=encode(report))
        commit.begin(commit.journal_path(self._request.images[0]), journal)
        return report, journal

    def _timed(self, report: Report, **changes: object) -> Report:
        seconds = round(time.monotonic() - self._began, 1)
        return replace(report, seconds=seconds, **changes)  # type: ignore[arg-type]


def _outcome(
    edits: Sequence[EditRecord], checks: Sequence[Check], failed: Sequence[Check]
) -> dict[str, object]:
    """Return the report's fields that say how the checks of an edited guest ended."""
    if failed:
        first = failed[0]
        return {
            "verdict": Verdict.FAILED,
            "code": "check-failed",
            "summary": f"{len(failed)} of {len(checks)} checks failed; the first: {first.name}: "
            f"{first.evidence}.",
            "hint": "The image is what was captured.",
        }
    if not edits:
        summary = f"Nothing had to be changed; {len(checks)} checks passed."
        return {"verdict": Verdict.UNCHANGED, "summary": summary}
    summary = f"{len(edits)} edits were made, and {len(checks)} checks passed."
    return {"verdict": Verdict.CONVERTED, "summary": summary}


def _gravity(problem: Problem) -> int:
    return [Severity.ERROR, Severity.WARNING, Severity.INFO].index(problem.severity)
