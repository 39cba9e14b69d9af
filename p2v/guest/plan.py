# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a conversion: a pure function from facts and target to edits, or a refusal."""

from __future__ import annotations

from p2v.guest.edit import Edits, Refusal
from p2v.guest.facts import GuestFacts
from p2v.guest.steps import planner
from p2v.guest.target import Target
from p2v.model.machine import FirmwareKind

_UNKNOWN = "unknown"
"""What libguestfs says where it finds no program in the guest."""
_ARCHITECTURES = ("x86_64", "i386", "i486", "i586", "i686")


def plan(facts: GuestFacts, target: Target) -> Edits | Refusal:
    """Return what must change in the guest for the target; it touches nothing."""
    system = facts.system
    if system.architecture == _UNKNOWN:
        return Refusal(
            "architecture",
            f"{system.name} has no program that would tell for which processor it is",
            "Look into its /bin: a system whose programs are gone or encrypted can't be converted.",
        )
    if system.architecture not in _ARCHITECTURES:
        return Refusal(
            "architecture",
            f"{system.name} is a system for {system.architecture}, and the VM's processors are x86",
            "Run it on a host of its own architecture; the image needs no conversion for that.",
        )
    if facts.firmware is not target.firmware:
        return _wrong_firmware(facts, target)
    if target.generation == 2 and system.architecture != "x86_64":
        return Refusal(
            "generation",
            f"{system.name} is a 32-bit system, and VMs of generation 2 run 64-bit ones only",
            "Convert it for KVM, or start the source in BIOS mode and capture it again.",
        )
    return planner(system.family).plan(facts, target)


def _wrong_firmware(facts: GuestFacts, target: Target) -> Refusal:
    names = {FirmwareKind.BIOS: "BIOS", FirmwareKind.UEFI: "UEFI"}
    generations = {FirmwareKind.BIOS: "generation 1", FirmwareKind.UEFI: "generation 2"}
    wanted = f" ({generations[target.firmware]})" if target.generation else ""
    right = generations[facts.firmware] if target.generation else names[facts.firmware]
    return Refusal(
        "firmware",
        f"{facts.system.name} starts by {names[facts.firmware]}, and the VM would by "
        f"{names[target.firmware]}{wanted}",
        f"Make the VM with {right}; '--firmware {facts.firmware}' says so.",
    )
