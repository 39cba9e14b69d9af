# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user chose so far, kept while screens come and go; and the plan that it makes. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace

from agent.job.launch import Target
from agent.plan import Choices, make_plan, partition_name
from p2v.model.errors import UsageError
from p2v.model.machine import Disk, Machine, Partition
from p2v.model.plan import ImageFormat, Plan, Treatment
from p2v.model.units import GiB


@dataclass
class Draft:
    """The answers. Sizes are bytes; `cpus` and `memory` of 0 are the machine's own."""

    target: Target = field(default_factory=Target)
    machine: Machine | None = None
    disks: set[str] = field(default_factory=set)
    exclude: set[str] = field(default_factory=set)
    """Names of partitions, as `agent.plan.partition_name` gives them."""
    name: str = ""
    format: ImageFormat = ImageFormat.VHDX
    compress: bool = False
    convert: bool = True
    all_blocks: bool = False
    live: bool = True
    """Whether disks that are in use are copied while they are, not refused."""
    wait: bool = False
    """Whether a live capture waits to be told to cut over."""
    bwlimit: int = 0
    cpus: int = 0
    memory: int = 0
    networks: dict[str, str] = field(default_factory=dict)
    host: str = ""
    accepted: set[str] = field(default_factory=set)
    """Warnings of the plan that the user has accepted."""

    @property
    def found(self) -> Machine:
        """The machine; screens that need it come after the one that looks for it."""
        if self.machine is None:
            raise RuntimeError("no inventory was taken")
        return self.machine

    def look_at(self, machine: Machine) -> None:
        """Take an inventory; choices that it still has are kept, others start from a proposal."""
        known = {disk.name for disk in machine.disks}
        if self.machine is None or not self.disks & known:
            self.disks = {disk.name for disk in machine.disks if _proposed(disk, machine)}
        self.disks &= known
        parts = {partition_name(d, p) for d in machine.disks for p in d.partitions}
        self.exclude &= parts
        self.name = self.name or machine.name
        self.machine = machine

    def choices(self) -> Choices:
        """Return the choices as the command line would have them."""
        disks = [disk for disk in self.found.disks if disk.name in self.disks]
        excluded = tuple(
            name
            for d in disks
            for p in d.partitions
            if (name := partition_name(d, p)) in self.exclude
        )
        qcow2 = self.format is ImageFormat.QCOW2
        return Choices(
            disks=tuple(disk.name for disk in disks),
            exclude=excluded,
            name=self.name,
            format=self.format,
            live=self.live and any(in_use(disk) for disk in disks),
            all_blocks=self.all_blocks,
            bwlimit=self.bwlimit,
            compress_image=self.compress and qcow2,
            convert=self.convert,
        )

    def plan(self) -> Plan:
        """Return the plan.

        Raises:
            UsageError: nothing is chosen, or it contradicts itself.
        """
        plan = make_plan(self.found, self.choices())
        if plan.vm is None:
            return plan
        nics = tuple(
            replace(nic, network=self.networks.get(nic.name, nic.network)) for nic in plan.vm.nics
        )
        vm = replace(
            plan.vm,
            name=plan.name,
            cpus=self.cpus or plan.vm.cpus,
            memory=self.memory or plan.vm.memory,
            nics=nics,
            host=self.host,
            create=bool(self.host),
        )
        return replace(plan, vm=vm)

    def command(self, plan_file: str) -> str:
        """Return the command line that does the same."""
        words = ["p2v-agent", "migrate", *self.target.words(), "--plan", plan_file]
        return shlex.join(words)

    def pending(self, plan: Plan) -> list[str]:
        """Return the plan's warnings that were not accepted yet."""
        return [warning for warning in plan.warnings if warning not in self.accepted]


def _proposed(disk: Disk, machine: Machine) -> bool:
    """Return whether to propose a disk: fixed, and not another path to one that is proposed."""
    first = next((d for d in machine.disks if d.wwn and d.wwn == disk.wwn), disk)
    return not disk.removable and first is disk and disk.size > 0


def in_use(disk: Disk) -> bool:
    """Return whether something may write to the disk."""
    return any(part.writable for part in disk.partitions)


def copied(plan: Plan, machine: Machine) -> int:
    """Return about how many bytes are read, by what file systems say they use."""
    used = {
        (disk.path, part.number): part.used for disk in machine.disks for part in disk.partitions
    }
    total = 0
    for disk in plan.disks:
        for part in disk.partitions:
            known = used.get((disk.path, part.number))
            if part.treatment is Treatment.COPY:
                total += part.size
            elif part.treatment is Treatment.USED:
                total += part.size if known is None else known
        if not disk.partitions:
            total += disk.size
    return total


def parse_cpus(text: str) -> int:
    """Return a number of virtual processors.

    Raises:
        UsageError: it is none from 1 to 240, as many as a Hyper-V machine of generation 2 has.
    """
    if not text.strip().isdecimal() or not 1 <= int(text) <= 240:
        raise UsageError(problem="processors: a number from 1 to 240")
    return int(text)


def parse_memory(text: str) -> int:
    """Return bytes for GiB in `text`.

    Raises:
        UsageError: it is no number from 0.5 to 12288, the most that a Hyper-V machine has.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 12288:
        raise UsageError(problem="memory: GiB, from 0.5 to 12288")
    return int(value * GiB)


def parse_name(text: str) -> str:
    """Return a name that files, hosts and migrations can have.

    Raises:
        UsageError: it is empty, too long, or has signs that a host refuses.
    """
    name = text.strip()
    if not name or len(name) > 64 or any(c in '\\/:*?"<>|' or not c.isprintable() for c in name):
        raise UsageError(problem='name: 1 to 64 signs, none of \\ / : * ? " < > |')
    return name


def boots_from(partition: Partition) -> bool:
    """Return whether the machine starts with this partition's help."""
    flags = {"esp", "boot", "bios_grub", "legacy_boot", "msftres"}
    return partition.mount_point in ("/", "/boot", "/boot/efi") or bool(
        flags & set(partition.flags)
    )
