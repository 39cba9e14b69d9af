# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine that a converted guest needs, in words: for who creates it by hand."""

from __future__ import annotations

from collections.abc import Iterator

from p2v.guest.facts import Family, GuestFacts
from p2v.guest.linux.fallback_loader import has_shim
from p2v.guest.report import Detail
from p2v.guest.target import Platform, Target
from p2v.model.machine import FirmwareKind


def machine(facts: GuestFacts, target: Target) -> Iterator[Detail]:
    """Yield the firmware, Secure Boot and the places of the disks.

    Hyper-V boots a VM of generation 1 from IDE only:
    https://learn.microsoft.com/windows-server/virtualization/hyper-v/plan/should-i-create-a-generation-1-or-2-virtual-machine-in-hyper-v
    """
    if target.platform is Platform.HYPERV:
        yield Detail("virtual machine", f"Hyper-V, generation {target.generation}")
    else:
        yield Detail("virtual machine", f"KVM with {target.firmware.upper()}")
    if target.firmware is FirmwareKind.UEFI:
        yield Detail("Secure Boot", _secure_boot(facts, target))
    for number, disk in enumerate(facts.disks):
        boots = ", boots" if number == 0 else ""
        yield Detail(f"disk {number + 1}", f"{disk.size} bytes on {_place(target, number)}{boots}")


def _secure_boot(facts: GuestFacts, target: Target) -> str:
    windows = facts.system.family is Family.WINDOWS
    if not windows and not has_shim(facts):
        return "off: no loader was found that Microsoft has signed"
    if target.platform is not Platform.HYPERV:
        return "may be on"
    name = "MicrosoftWindows" if windows else "MicrosoftUEFICertificateAuthority"
    return f"may be on, with the template {name}"


def _place(target: Target, number: int) -> str:
    if target.platform is Platform.KVM:
        return f"virtio {number}"
    if target.generation == 1:
        return "IDE 0:0" if number == 0 else f"SCSI {(number - 1) // 64}:{(number - 1) % 64}"
    return f"SCSI {number // 64}:{number % 64}"
