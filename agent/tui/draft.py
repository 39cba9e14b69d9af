# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user chose so far, kept while screens come and go; and the plan that it makes. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.firmware import possible
from agent.job.launch import Target
from agent.plan import Choices, make_plan, partition_name
from agent.vm import VmChoices, parse_network
from p2v.model.machine import Disk, FirmwareKind, Machine
from p2v.model.plan import ImageFormat, Plan


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
    firmware: FirmwareKind | None = None
    """None is what the disks start by."""
    networks: dict[str, str] = field(default_factory=dict)
    """By interface: a network of the host, or one with a VLAN: ``LAN:20``."""
    host: str = ""
    connected: bool = True
    power_on: bool = False
    speeds: dict[str, float] = field(default_factory=dict)
    """Of disks that were measured: the bytes a second at which they are read."""
    link: float | None = None
    """The rate of the link to the converter, where it is known."""
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
        cards = {nic.name for nic in machine.nics}
        self.networks = {name: text for name, text in self.networks.items() if name in cards}
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
            vm=self._vm(),
        )

    def _vm(self) -> VmChoices:
        return VmChoices(
            create=bool(self.host),
            host=self.host,
            cpus=self.cpus,
            memory=self.memory,
            firmware=self.firmware if self.firmware in self.kinds() else None,
            networks=tuple(
                (name, *parse_network(text)) for name, text in self.networks.items() if text
            ),
            connected=self.connected,
            power_on=self.power_on and bool(self.host),
        )

    def kinds(self) -> tuple[FirmwareKind, ...]:
        """Return the kinds of firmware that may start the chosen disks, the likeliest first."""
        return possible(self.found, [d for d in self.found.disks if d.name in self.disks])

    def plan(self) -> Plan:
        """Return the plan.

        Raises:
            UsageError: nothing is chosen, or it contradicts itself.
        """
        return make_plan(self.found, self.choices())

    def command(self) -> str:
        """Return the command line that does the same as the wizard will."""
        return shlex.join(["p2v-agent", "migrate", *self.target.words(), *self._words()])

    def replay(self, plan_file: str) -> str:
        """Return the command line that carries out a saved plan."""
        words = ["p2v-agent", "migrate", *self.target.words(), "--plan", plan_file]
        return shlex.join([*words, *self._cutover()])

    def _words(self) -> Iterator[str]:
        """Yield the options of agent.cli.plan_options that these choices are."""
        choices = self.choices()
        paths = {disk.name: disk.path for disk in self.found.disks}
        for name in choices.disks:
            yield from ("--disk", name if paths[name] == f"/dev/{name}" else paths[name])
        for name in choices.exclude:
            yield from ("--exclude", name)
        yield from ("--name", choices.name, "--format", choices.format.value)
        yield from ("--compress-image",) * choices.compress_image
        yield from ("--all-blocks",) * choices.all_blocks
        yield from ("--no-convert",) * (not choices.convert)
        yield from ("--live",) * choices.live
        if choices.bwlimit:
            yield from ("--bwlimit", str(choices.bwlimit))
        yield from _vm_words(choices.vm)
        yield from self._cutover()

    def _cutover(self) -> tuple[str, ...]:
        return ("--cutover", "wait") if self.wait and self.choices().live else ()

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


def _vm_words(vm: VmChoices) -> Iterator[str]:
    """Yield the options of agent.cli.vm_options that these choices are."""
    if vm.cpus:
        yield from ("--cpus", str(vm.cpus))
    if vm.memory:
        yield from ("--memory", str(vm.memory))
    if vm.firmware:
        yield from ("--firmware", vm.firmware.value)
    for name, network, vlan in vm.networks:
        yield from ("--network", f"{name}={network}:{vlan}" if vlan else f"{name}={network}")
    if vm.create:
        yield from ("--host", vm.host)
    yield from ("--unplugged",) * (not vm.connected)
    yield from ("--power-on",) * vm.power_on
