# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearse a guest: choose the virtual machine, start it, and word what comes of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from p2v.guest.accelerator import Accelerator, accelerator
from p2v.guest.rehearsal.firmware import firmware_of
from p2v.guest.rehearsal.machine import Bus, Drive, Hardware, running
from p2v.guest.rehearsal.screen import Picture
from p2v.guest.rehearsal.verdict import Outcome, Verdict
from p2v.guest.rehearsal.watch import Tell, Watch
from p2v.guest.report import Attempt, Rehearsal
from p2v.guest.target import Platform
from p2v.images.check import inspect_image
from p2v.images.open import open_reader
from p2v.model.errors import ImageError, ImageIncompleteError, UsageError
from p2v.model.machine import FirmwareKind
from p2v.model.units import GiB

TIMEOUT_S = {Accelerator.KVM: 300.0, Accelerator.TCG: 900.0}
"""How long a start may take by default: emulation is slow."""

_VMDK = (b"KDMV", b"COWD", b"# Di")
# What a kernel that has no driver for the disks ends in.
_WITHOUT_ROOT = (Outcome.INITRAMFS_SHELL, Outcome.KERNEL_PANIC, Outcome.STUCK)
_SCREEN_WIDTH = 200


@dataclass(frozen=True, slots=True)
class Options:
    """How to rehearse; what is None or "" is found out.

    Attributes:
        firmware: by the disk's partition table.
        bus: each in turn until the guest finds its disk; see `buses`.
        platform: the hypervisor that the guest was converted for; it decides the order of buses.
        timeout_s: of each start; see `TIMEOUT_S`.
        passphrase: typed once if the guest asks for one.
        memory: bytes.
        secure_boot: start under UEFI with Microsoft's keys enrolled.
    """

    firmware: FirmwareKind | None = None
    bus: Bus | None = None
    platform: Platform | None = None
    timeout_s: float | None = None
    passphrase: str = ""
    memory: int = 2 * GiB
    secure_boot: bool = False


@dataclass(frozen=True, slots=True)
class Outturn:
    """A rehearsal as it went: `rehearsal` is for the report, the rest for who keeps evidence."""

    rehearsal: Rehearsal
    verdict: Verdict
    picture: Picture | None
    console: str


def rehearse(
    images: Sequence[Path], options: Options | None = None, tell: Tell | None = None
) -> Outturn:
    """Start the guest on `images` (in the order of its disks) and say how far it gets.

    Nothing is written to the images. A guest that does not find its disk is started once more with
    the disks on another bus, unless `options` names one.

    Raises:
        ImageError: an image is damaged, incomplete or of a kind that QEMU can't use.
        UsageError: the options don't fit each other.
        ToolError: QEMU, its firmware or the fonts are missing or fail.
    """
    wanted = options or Options()
    drives = [drive_of(image) for image in images]
    firmware = wanted.firmware or _firmware(images[0])
    if wanted.secure_boot and firmware is not FirmwareKind.UEFI:
        raise UsageError(problem="a BIOS knows no Secure Boot; rehearse with --firmware uefi")
    accel = accelerator()
    timeout_s = wanted.timeout_s or TIMEOUT_S[accel]
    attempts: list[Attempt] = []
    started = monotonic()
    for bus in buses(wanted, any(drive.sector_size != 512 for drive in drives)):
        hardware = Hardware(
            accel, firmware, bus, memory=wanted.memory, secure_boot=wanted.secure_boot
        )
        with running(drives, hardware) as machine:
            watch = Watch(machine, wanted.passphrase, tell)
            verdict = watch.run(timeout_s)
        attempts.append(Attempt(bus, verdict.outcome, verdict.sentence))
        if verdict.outcome not in _WITHOUT_ROOT:
            break
    rehearsal = Rehearsal(
        verdict=verdict.outcome,
        text=verdict.sentence,
        evidence=_evidence(verdict),
        screenshot=base64.b64encode(watch.picture.png()).decode() if watch.picture else "",
        accelerator=accel,
        seconds=round(monotonic() - started, 1),
        firmware=firmware,
        bus=bus,
        attempts=tuple(attempts),
        concerns=verdict.concerns,
        limits=limits(wanted.platform, bus),
    )
    return Outturn(rehearsal, verdict, watch.picture, watch.console)


def buses(options: Options, large_sectors: bool = False) -> tuple[Bus, ...]:
    """Return the buses to try in turn.

    IDE comes first, since a Hyper-V VM of generation 1 has it and old systems know nothing else;
    virtio where the guest was converted for it. IDE and SATA disks have sectors of 512 bytes.
    """
    if options.bus is not None:
        return (options.bus,)
    if options.platform is Platform.KVM:
        return (Bus.VIRTIO, Bus.SCSI)
    return (Bus.SCSI, Bus.VIRTIO) if large_sectors else (Bus.IDE, Bus.SCSI)


def limits(platform: Platform | None, bus: Bus) -> tuple[str, ...]:
    """Return what this rehearsal does not show, in sentences."""
    said = ["There was no network: addresses and services that need it were not tried."]
    if platform is not Platform.KVM:
        said.insert(
            0,
            f"QEMU is not Hyper-V: it has no VMBus, and the disks were on {bus.value.upper()}. "
            "That the guest has hv_vmbus, hv_storvsc, hv_netvsc and their like where it needs them "
            "rests on listing its initramfs or registry, not on using them.",
        )
    return tuple(said)


def drive_of(image: Path) -> Drive:
    """Return an image as QEMU shall open it: the format is looked up here, not guessed there.

    Raises:
        NoSuchDiskError: there is no such image.
        ImageError: it is damaged, incomplete, or needs other files.
    """
    info = inspect_image(image)
    if info.incomplete:
        raise ImageIncompleteError(path=image)
    if info.parent:
        raise ImageError(path=image, problem=f"it needs its parent {info.parent}")
    if info.format == "raw":
        with image.open("rb") as file:
            if file.read(4) in _VMDK:
                problem = "VMDK images can't be rehearsed; convert it to VHDX or qcow2 first"
                raise ImageError(path=image, problem=problem)
    if info.format == "vhdx" and info.logical_sector != 512:
        problem = "QEMU can't open a VHDX with sectors of 4096 bytes; rehearse it as qcow2 or raw"
        raise ImageError(path=image, problem=problem)
    return Drive(image, str(info.format), info.logical_sector)


def _firmware(image: Path) -> FirmwareKind:
    with closing(open_reader(image)) as reader:
        return firmware_of(reader)


def _evidence(verdict: Verdict) -> tuple[str, ...]:
    """Return the last lines of whichever of console and screen says more."""
    lines = verdict.console or verdict.screen
    return tuple(line[:_SCREEN_WIDTH] for line in lines)
