# SPDX-License-Identifier: GPL-3.0-or-later
"""Which firmware can start a machine's disks, and so which the virtual machine must have. Pure.

What started this system need not be what starts the disks: they may be another machine's, or this
is the live image, which starts by either. A disk for BIOS has no loader that UEFI would find, and
the other way round; a virtual machine of Hyper-V's generation 2 knows UEFI only.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2v.model.errors import UsageError
from p2v.model.machine import Disk, FirmwareKind, Machine

_SYSTEM = {"/", "/boot", "/boot/efi"}


def possible(machine: Machine, disks: Sequence[Disk]) -> tuple[FirmwareKind, ...]:
    """Return what may start `disks`, the likeliest first: all kinds where nothing tells."""
    own = machine.firmware.kind
    if any(part.mount_point in _SYSTEM for disk in disks for part in disk.partitions):
        return (own,)  # it did
    flags = {flag for disk in disks for part in disk.partitions for flag in part.flags}
    found = set()
    if "esp" in flags:
        found.add(FirmwareKind.UEFI)
    if "bios_grub" in flags or any(disk.table == "msdos" for disk in disks):
        found.add(FirmwareKind.BIOS)
    return tuple(sorted(found or FirmwareKind, key=lambda kind: kind is not own))


def of_machine(machine: Machine) -> FirmwareKind:
    """Return what starts the machine's own disks, most likely; a stick is none of them."""
    return possible(machine, [disk for disk in machine.disks if not disk.removable])[0]


def choose(kinds: Sequence[FirmwareKind], wanted: FirmwareKind | None) -> FirmwareKind:
    """Return the wanted kind of firmware, or the likeliest.

    Raises:
        UsageError: the disks can't start by it.
    """
    if wanted is None or wanted in kinds:
        return wanted or kinds[0]
    right = kinds[0]
    raise UsageError(
        problem=f"the disks start by {right.upper()}, not by {wanted.upper()}; "
        f"a {in_words(right)} can start them: leave --firmware out"
    )


def generation(kind: FirmwareKind) -> int:
    """Return the generation of a Hyper-V machine with this firmware."""
    return 2 if kind is FirmwareKind.UEFI else 1


def in_words(kind: FirmwareKind) -> str:
    """Return the virtual machine with this firmware, in words."""
    return f"machine with {kind.upper()} (Hyper-V: generation {generation(kind)})"
