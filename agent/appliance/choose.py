# SPDX-License-Identifier: GPL-3.0-or-later
"""What an unattended migration captures, and under which id. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace

from agent.appliance.settings import Settings
from agent.appliance.sticks import OWN_LABELS
from agent.plan import Choices
from agent.vm import VmChoices, parse_host
from p2v.model.errors import SourceChangedError, UsageError
from p2v.model.machine import Disk, Machine, NicKind
from p2v.model.plan import Plan, PlannedDisk

_NAMELESS = ("p2v", "localhost", "(none)")
"""Host names that are the live image's own or nobody's."""


def choices(settings: Settings, machine: Machine) -> Choices:
    """Return what `settings` ask for on `machine`: all disks of its own where they name none.

    Raises:
        UsageError: there is no disk.
    """
    disks = settings.disks or tuple(disk.name for disk in own_disks(machine.disks))
    if not disks:
        raise UsageError(
            problem="no disk was found; the hardware check ('p2v-agent hardware') names "
            "controllers without a driver"
        )
    return Choices(
        disks=disks,
        exclude=settings.exclude,
        name=settings.name or machine_name(machine),
        format=settings.format,
        all_blocks=settings.all_blocks,
        codec=settings.codec,
        bwlimit=settings.bwlimit,
        compress_image=settings.compress,
        convert=settings.convert,
        vm=_vm_choices(settings),
    )


def _vm_choices(settings: Settings) -> VmChoices:
    create, host = parse_host(settings.host)
    return VmChoices(
        create=create,
        host=host,
        storage=settings.storage,
        cpus=settings.vcpu,
        memory=settings.memory,
        firmware=settings.firmware,
        networks=settings.network,
        connected=not settings.unplugged,
        clustered=settings.clustered,
        power_on=settings.power_on,
    )


def own_disks(disks: Iterable[Disk]) -> list[Disk]:
    """Return the disks that belong to the machine: not USB, not removable, not p2v's own."""
    return [
        disk
        for disk in disks
        if not disk.removable
        and disk.transport != "usb"
        and not any(part.label in OWN_LABELS for part in disk.partitions)
    ]


def machine_name(machine: Machine) -> str:
    """Return a name for a machine whose own system does not run: what its hardware says it is."""
    if machine.name not in _NAMELESS:
        return machine.name
    serial = machine.smbios.serial or machine.smbios.uuid.split("-")[0]
    named = "-".join(part for part in (machine.smbios.product, serial) if part)
    name = re.sub(r"[^A-Za-z0-9]+", "-", named).strip("-").lower()
    return name[:40].rstrip("-") or "machine"


def migration_id(name: str, machine: Machine, plan: Plan) -> str:
    """Return the id of this machine's migration: the same whenever it is started again."""
    facts = [machine.smbios.uuid, machine.smbios.serial]
    facts += [nic.mac for nic in machine.nics if nic.kind is NicKind.PHYSICAL]
    facts += [f"{disk.serial} {disk.size}" for disk in plan.disks]
    digest = hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest()[:8]
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-")
    return f"{readable or 'machine'}-{digest}"


def plan_here(plan: Plan, machine: Machine) -> Plan:
    """Return a plan that was made on the running machine as it is to be read from here.

    Devices have other names, and nothing is live. A disk is known by its serial number and size,
    or by its size and table where it has no serial number.

    Raises:
        SourceChangedError: a disk of the plan is not here, or cannot be told from another.
    """
    disks = tuple(_disk_here(disk, machine) for disk in plan.disks)
    if len({disk.path for disk in disks}) < len(disks):
        raise SourceChangedError(disk=plan.disks[0].name, problem="two disks look the same")
    return replace(plan, disks=disks, live=False)


def _disk_here(planned: PlannedDisk, machine: Machine) -> PlannedDisk:
    found = [disk for disk in own_disks(machine.disks) if disk.size == planned.size]
    if planned.serial:
        found = [disk for disk in found if disk.serial in (planned.serial, "")]
    if len(found) > 1:
        found = [disk for disk in found if _same_partitions(planned, disk)]
    if len(found) != 1:
        problem = "it is not in this machine" if not found else "several disks look like it"
        raise SourceChangedError(disk=planned.name, problem=problem)
    return replace(planned, path=found[0].path)


def _same_partitions(planned: PlannedDisk, disk: Disk) -> bool:
    return {(part.start, part.uuid) for part in planned.partitions} == {
        (part.start, part.uuid) for part in disk.partitions
    }
