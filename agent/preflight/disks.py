# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of disks as hardware."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from agent.preflight.finding import Finding, Level
from p2v.model.machine import Disk, Machine
from p2v.model.units import TiB, format_size

_VHDX_LIMIT = 64 * TiB
_MANY = 4
"""An IDE bus of generation 1 has four places; more disks go to SCSI controllers."""
_WORN_PERCENT = 90


def check_disks(machine: Machine) -> Iterator[Finding]:
    """Yield what is to be known of the machine's disks."""
    if not machine.disks:
        yield Finding(
            Level.CRITICAL,
            "no-disks",
            "",
            "No disk was found.",
            "Its controller may need a driver or firmware, or be off in the firmware's set-up.",
        )
    yield from _same_disk_twice(machine)
    if len(machine.disks) > _MANY:
        count = len(machine.disks)
        yield Finding(
            Level.INFORMATION,
            "many-disks",
            "",
            f"{count} disks: all but those it starts from go to SCSI controllers of the VM.",
        )
    for disk in machine.disks:
        yield from _health(disk)
        yield from _shape(disk)


def _same_disk_twice(machine: Machine) -> Iterator[Finding]:
    by_id: dict[str, list[str]] = defaultdict(list)
    for disk in machine.disks:
        if disk.wwn:
            by_id[disk.wwn].append(disk.name)
    for names in by_id.values():
        if len(names) > 1:
            others = ", ".join(names[1:])
            yield Finding(
                Level.CRITICAL,
                "multipath",
                names[0],
                f"{names[0]} and {others} are paths to one disk.",
                f"Choose {names[0]} alone; the others would copy the same data again.",
            )


def _health(disk: Disk) -> Iterator[Finding]:
    smart = disk.smart
    if smart is None:
        return
    if smart.passed is False:
        yield Finding(
            Level.CRITICAL,
            "dying-disk",
            disk.name,
            f"{disk.name} says of itself that it is failing.",
            "Back up what matters first; copy it now, and expect unreadable sectors.",
        )
    bad = (smart.pending_sectors or 0) + (smart.media_errors or 0)
    if bad:
        yield Finding(
            Level.WARNING,
            "bad-sectors",
            disk.name,
            f"{disk.name} has {bad} sectors that it could not read.",
            "They become zeros in the image and are listed; check the files there.",
        )
    if (smart.percentage_used or 0) > _WORN_PERCENT:
        yield Finding(
            Level.WARNING,
            "worn-disk",
            disk.name,
            f"{smart.percentage_used} % of what {disk.name} is made to endure is used up.",
            "Copy it soon.",
        )


def _shape(disk: Disk) -> Iterator[Finding]:
    if disk.size > _VHDX_LIMIT:
        yield Finding(
            Level.CRITICAL,
            "too-large",
            disk.name,
            f"{disk.name} has {format_size(disk.size)}, and a VHDX holds 64 TiB.",
            "Choose qcow2 or raw for it.",
        )
    if disk.logical_sector != 512:
        yield Finding(
            Level.INFORMATION,
            "native-4k",
            disk.name,
            f"{disk.name} has sectors of {disk.logical_sector} bytes.",
            "VHDX on Hyper-V keeps them; KVM and others need to be told.",
        )
    if disk.removable:
        yield Finding(
            Level.INFORMATION, "removable", disk.name, f"{disk.name} can be taken out: is it meant?"
        )
