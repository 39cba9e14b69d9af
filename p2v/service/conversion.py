# SPDX-License-Identifier: GPL-3.0-or-later
"""Converts the guest of a migration whose images are committed.

A guest that can't be converted does not fail its migration: the images are what was captured, and
the report beside the first one says what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from p2v.guest import commit
from p2v.guest.report import Report, Verdict, load_report, report_path
from p2v.guest.target import NicAddress, Platform, Target
from p2v.images.durable import write_durably
from p2v.images.open import open_reader
from p2v.model.errors import NoRoomError, P2VError
from p2v.model.machine import FirmwareKind
from p2v.model.plan import ImageFormat, Plan
from p2v.model.vm import VmSettings

log = logging.getLogger(__name__)

_BOOT_CODE = 440  # bytes of an MBR before its disk signature
_ESP_KINDS = ("vfat", "fat", "fat12", "fat16", "fat32", "msdos")


def convert_guest(plan: Plan, images: Sequence[Path]) -> None:
    """Convert the guest in `images`, if the plan asks for it and something can boot from them.

    What came of it is in the report beside the first image.

    Raises:
        NoRoomError: there is no room for the edits; call it again.
        P2VError: the edits are on their way into the images, and can't be written; call it again.
    """
    if not plan.convert or plan.vm is None:
        return
    if not _boots(plan, plan.vm, images):
        log.info("%s: nothing could start from these disks: no guest to convert", plan.name)
        return
    # Imported here: a converter that only stores images needs no libguestfs.
    from p2v.guest.convert import Request, convert

    request = Request(
        images=tuple(images),
        platform=platform_of(plan.format),
        nics=tuple(NicAddress(nic.name, nic.mac) for nic in plan.vm.nics if nic.mac),
        formats=(plan.format,) * len(images),
    )
    try:
        convert(request)
    except NoRoomError:
        raise
    except P2VError as error:
        if commit.journal_path(images[0]).exists():
            raise
        log.warning("%s: its guest is not converted: %s", images[0], error)
        report = _not_done(request.platform, plan.vm.firmware, images, error)
        write_durably(report_path(images[0]), report.to_json().encode())


def not_converted(images: Sequence[Path]) -> str:
    """Return why the guest in committed images was not converted, as its report says.

    "" if it was converted, did not need to be, or nobody asked for it.
    """
    path = report_path(images[0])
    if not path.exists():
        return ""
    report = load_report(path)
    if report.verdict in (Verdict.CONVERTED, Verdict.UNCHANGED):
        return ""
    return f"The guest was not converted: {report.summary}"


def is_converted(images: Sequence[Path]) -> bool:
    """Return whether the guest in committed images is ready for a hypervisor's own devices."""
    path = report_path(images[0])
    return path.exists() and load_report(path).verdict in (Verdict.CONVERTED, Verdict.UNCHANGED)


def is_domain_controller(images: Sequence[Path]) -> bool:
    """Return whether the guest was found to be one when it was looked into."""
    path = report_path(images[0])
    if not path.exists():
        return False
    return any(problem.code == "domain-controller" for problem in load_report(path).problems)


def platform_of(image_format: ImageFormat) -> Platform:
    """Return the hypervisor that images of a format are for: VHDX is Hyper-V's."""
    return Platform.HYPERV if image_format is ImageFormat.VHDX else Platform.KVM


def _boots(plan: Plan, vm: VmSettings, images: Sequence[Path]) -> bool:
    """Return whether a firmware could start something from one of the disks; else they are data."""
    if vm.firmware is FirmwareKind.UEFI and any(
        partition.content.lower() in _ESP_KINDS
        for disk in plan.disks
        for partition in disk.partitions
    ):
        return True
    return any(
        disk.partitions and _has_boot_code(image, plan.format)
        for disk, image in zip(plan.disks, images, strict=True)
    )


def _has_boot_code(image: Path, form: ImageFormat) -> bool:
    with closing(open_reader(image, form)) as reader:
        head = bytearray(min(512, reader.size))
        reader.readinto(0, head)
    return head[510:] == b"\x55\xaa" and any(head[:_BOOT_CODE])


def _not_done(
    platform: Platform, firmware: FirmwareKind, images: Sequence[Path], error: P2VError
) -> Report:
    """Return the report on a guest that could not even be planned for."""
    return Report(
        images=tuple(str(image) for image in images),
        target=Target(platform, firmware),
        verdict=Verdict.REFUSED,
        summary=str(error),
        created=time.time(),
        code=error.code,
        hint=error.way_out,
    )
