# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a Windows guest is not converted, and what its owner can do instead."""

from __future__ import annotations

from pathlib import Path

from p2v.guest.edit import Refusal
from p2v.guest.facts import GuestFacts
from p2v.guest.target import Platform, Target
from p2v.guest.windows import boot, virtio
from p2v.guest.windows.facts import VolumeState, WindowsFacts

_WINDOWS_7, _WINDOWS_8 = (6, 1), (6, 2)
_BY_IDE = (
    "Leave the conversion out (--no-convert) and create a VM of generation 1 with the disk on IDE "
    "and a legacy network adapter: Windows' own IDE driver starts it."
)


def refusal(
    facts: GuestFacts, windows: WindowsFacts, target: Target, drivers: tuple[Path, ...]
) -> Refusal | None:
    """Return the first reason against a conversion, None if there is none."""
    return (
        _of_disk(facts, windows)
        or _of_system(facts, target)
        or (_of_kvm(drivers, target) if target.platform is Platform.KVM else None)
        or (_of_hyperv(windows, target) if target.platform is Platform.HYPERV else None)
    )


def _of_disk(facts: GuestFacts, windows: WindowsFacts) -> Refusal | None:
    if windows.dynamic:
        return Refusal(
            "dynamic-system-disk",
            f"Windows lies on the dynamic volume {facts.system.root}",
            "The image is a whole copy and may start as it is: create the VM from it unconverted, "
            "or make the disk basic on the source, from a backup of the volume.",
        )
    if windows.state is VolumeState.HIBERNATED:
        return Refusal(
            "hibernated",
            "Windows is hibernated, or was shut down with Fast Startup: its memory still holds "
            "changes to this volume",
            "Start the source, run 'shutdown /s /f /t 0' in it (or 'powercfg /h off' first), and "
            "capture it again.",
        )
    if windows.state is VolumeState.UNCLEAN:
        return Refusal(
            "unclean-volume",
            f"The file system of {facts.system.root} was not closed, or is marked for chkdsk",
            "Start the source, run 'chkdsk /f' and shut it down, then capture it again. If it "
            "can't start any more: start the unconverted image once as a VM with its disk on IDE "
            "or SATA, let Windows check it, shut it down, and run 'p2v convert' on the image.",
        )
    if windows.damage:
        return Refusal(
            "damaged-registry",
            f"The registry ({windows.hive}) can't be read: {windows.damage}",
            "Start the source once and shut it down, then capture it again; if it does not start, "
            "restore its registry from a backup.",
        )
    return None


def _of_system(facts: GuestFacts, target: Target) -> Refusal | None:
    system = facts.system
    version = (system.major, system.minor)
    if version < _WINDOWS_7:
        return Refusal(
            "windows-too-old",
            f"{system.name} is older than Windows 7 and Windows Server 2008 R2, the first that "
            "have drivers for a VM's disk, or take them offline",
            _BY_IDE,
        )
    if target.generation == 2 and version < _WINDOWS_8:
        return Refusal(
            "no-generation-2",
            f"{system.name} starts by UEFI here, and VMs of generation 2 run Windows 8, Windows "
            "Server 2012 and later only",
            "Run it on KVM with UEFI, or upgrade it on the source first.",
        )
    return None


def _of_kvm(drivers: tuple[Path, ...], target: Target) -> Refusal | None:
    if virtio.disk_drivers(drivers):
        return None
    where = f"{target.drivers} has none" if target.drivers else "none were given"
    return Refusal(
        "no-virtio-drivers",
        f"Windows has no drivers for virtio, and for this version {where}",
        "Name the virtio-win ISO (https://github.com/virtio-win/virtio-win-pkg-scripts) with "
        "--virtio-win; or leave the conversion out (--no-convert) and give the VM a SATA disk and "
        "an e1000e network adapter.",
    )


def _of_hyperv(windows: WindowsFacts, target: Target) -> Refusal | None:
    lost = boot.missing(windows, boot.VMBUS)
    if not lost or target.generation == 1:
        return None
    return Refusal(
        "no-vmbus-drivers",
        f"Windows lacks drivers for Hyper-V: {', '.join(lost)}",
        "Repair it on the source with 'DISM /Online /Cleanup-Image /RestoreHealth', and capture "
        "it again.",
    )
