# SPDX-License-Identifier: GPL-3.0-or-later
"""Run all checks over a machine."""

from __future__ import annotations

from collections.abc import Iterator

from agent.firmware import generation, of_machine
from agent.preflight.disks import check_disks
from agent.preflight.finding import Finding, Level
from agent.preflight.volumes import check_volumes
from p2v.model.machine import Load, Machine, NicKind, Severity

_LEVELS = {
    Severity.ERROR: Level.CRITICAL,
    Severity.WARNING: Level.WARNING,
    Severity.INFO: Level.INFORMATION,
}
_BUSY_PERCENT = 80.0
_BUSY_WRITES = 50 << 20


def preflight(machine: Machine) -> tuple[Finding, ...]:
    """Return what is to be known of `machine`, the worst first."""
    found = [
        *_problems(machine),
        *check_disks(machine),
        *check_volumes(machine),
        *_hardware(machine),
        *_network(machine),
    ]
    if machine.load is not None:
        found += _load(machine.load)
    order = list(Level)
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: order.index(finding.level)))


def _problems(machine: Machine) -> Iterator[Finding]:
    for each in machine.problems:
        yield Finding(_LEVELS[each.severity], each.code, each.subject, each.message, each.action)


def _hardware(machine: Machine) -> Iterator[Finding]:
    if machine.cpus.architecture not in ("x86_64", "i686", "i386", ""):
        yield Finding(
            Level.CRITICAL,
            "architecture",
            "",
            f"The processor is {machine.cpus.architecture}: no x86 host can run this system.",
            "Its data can be migrated, its system cannot.",
        )
    own, kind = machine.firmware.kind, of_machine(machine)
    but = "" if kind is own else f"{own.upper()} started this system, but not the disks. "
    message = f"It starts by {kind.upper()}: a Hyper-V virtual machine of generation "
    yield Finding(Level.INFORMATION, "firmware", "", f"{but}{message}{generation(kind)}.")
    if machine.firmware.secure_boot and kind is own:
        yield Finding(
            Level.INFORMATION, "secure-boot", "", "Secure Boot is on, and can stay on in the VM."
        )


def _network(machine: Machine) -> Iterator[Finding]:
    cards = [nic for nic in machine.nics if nic.kind is NicKind.PHYSICAL]
    if not cards:
        yield Finding(
            Level.WARNING,
            "no-nic",
            "",
            "No network card was found.",
            "Load its driver or firmware, or write the images to a disk that is connected here.",
        )
    elif not any(nic.up for nic in cards):
        yield Finding(
            Level.WARNING, "no-link", "", "No network card has a link.", "Check cables and ports."
        )
    for nic in machine.nics:
        if nic.kind is NicKind.BOND:
            yield Finding(
                Level.INFORMATION,
                "bond",
                nic.name,
                "It is a bond: in a virtual machine one adapter does, the host has the bond.",
            )


def _load(load: Load) -> Iterator[Finding]:
    if load.cpu_percent > _BUSY_PERCENT:
        yield Finding(
            Level.WARNING,
            "busy-cpu",
            "",
            f"The processors are {load.cpu_percent:.0f} % busy: the copy competes with the work.",
            "Migrate at a quieter time, or limit the rate.",
        )
    for disk in load.disks:
        if disk.write_bytes > _BUSY_WRITES:
            yield Finding(
                Level.WARNING,
                "busy-disk",
                disk.name,
                f"{disk.write_bytes / (1 << 20):.0f} MiB a second are written to it.",
                "A live copy may never catch up: migrate at a quieter time.",
            )
