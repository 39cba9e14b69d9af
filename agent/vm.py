# SPDX-License-Identifier: GPL-3.0-or-later
"""From the machine to the virtual machine that replaces it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agent import firmware
from p2v.model.errors import UsageError
from p2v.model.machine import Disk, FirmwareKind, Load, Machine, NicKind
from p2v.model.plan import PlannedDisk, Treatment
from p2v.model.units import GiB, MiB, parse_size
from p2v.model.vm import OsFamily, SecureBoot, VmLoad, VmNic, VmSettings

_WINDOWS = {"ntfs", "BitLocker", "ldm", "ReFS"}
_LINUX = {"ext2", "ext3", "ext4", "xfs", "btrfs", "LVM2_member", "linux_raid_member", "crypto_LUKS"}
_CARDS = (NicKind.PHYSICAL, NicKind.BOND)
_NETWORK = re.compile(r"(?P<network>.*?)(:(?P<vlan>\d{1,4}))?")
_MAX_VLAN = 4094
BEST = "best"
"""Instead of a host's name: the one with the most stars."""
OTHERS = "*"
"""Instead of an interface's name: all that are not named."""


@dataclass(frozen=True, slots=True)
class VmChoices:
    """What the user wants of the virtual machine; what is empty, 0 or None is as on the source.

    `networks` are the name of an interface, its MAC, or `OTHERS`; that of the host's network; and
    the VLAN or 0.
    """

    create: bool = False
    host: str = ""
    storage: str = ""
    cpus: int = 0
    memory: int = 0
    firmware: FirmwareKind | None = None
    networks: tuple[tuple[str, str, int], ...] = ()
    connected: bool = True
    clustered: bool = False
    power_on: bool = False


def parse_host(text: str) -> tuple[bool, str]:
    """Return whether the machine is made, and on which host: "" is the one with the most stars."""
    return bool(text), "" if text == BEST else text


def parse_network(text: str) -> tuple[str, int]:
    """Return the host's network and the VLAN, or 0, in ``LAN`` or ``LAN:20``.

    Raises:
        UsageError: the VLAN is none from 1 to 4094, or it has no network.
    """
    found = _NETWORK.fullmatch(text.strip())
    vlan = int(found["vlan"] or 0) if found is not None else 0
    if found is None or vlan > _MAX_VLAN or (vlan and not found["network"]):
        raise UsageError(problem=f"'{text}' is not like LAN or LAN:20, with a VLAN up to 4094")
    return found["network"], vlan


def parse_connection(text: str) -> tuple[str, str, int]:
    """Return interface, the host's network, and the VLAN or 0, in ``eno1=LAN`` or ``eno1=LAN:20``.

    Raises:
        UsageError: it is not like these.
    """
    nic, equals, network = text.partition("=")
    if not (nic and equals):
        raise UsageError(
            problem=f"network: '{text}' is not like eno1=LAN or eno1=LAN:20; the interface may be "
            f"its MAC, or {OTHERS} for all others"
        )
    return nic, *parse_network(network)


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


def parse_memory_size(text: str) -> int:
    """Return the bytes of a virtual machine's memory that `text` names, as ``4G``.

    Raises:
        UsageError: it is no size from 32M, the least that Hyper-V gives, to 12T, the most.
    """
    size = parse_size(text)
    if not 32 * MiB <= size <= 12288 * GiB:
        raise UsageError(problem=f"memory: from 32M to 12T, not '{text}'")
    return size


def parse_name(text: str) -> str:
    """Return a name that files, hosts and migrations can have.

    Raises:
        UsageError: it is empty, too long, or has signs that a host refuses.
    """
    name = text.strip()
    if not name or len(name) > 64 or any(c in '\\/:*?"<>|' or not c.isprintable() for c in name):
        raise UsageError(problem='name: 1 to 64 signs, none of \\ / : * ? " < > |')
    return name


def chosen_vm(settings: VmSettings, choices: VmChoices) -> VmSettings:
    """Return the settings with the user's choices.

    Raises:
        UsageError: a network is for an interface that there is not.
    """
    return replace(
        settings,
        create=choices.create,
        host=choices.host,
        storage=choices.storage,
        cpus=choices.cpus or settings.cpus,
        memory=choices.memory or settings.memory,
        nics=tuple(
            replace(nic, connected=choices.connected)
            for nic in _connected(settings.nics, choices.networks)
        ),
        clustered=choices.clustered,
        power_on=choices.power_on,
    )


def _connected(nics: Sequence[VmNic], networks: Sequence[tuple[str, str, int]]) -> Iterator[VmNic]:
    """Yield the adapters with their networks."""
    wanted = {
        name.lower() if ":" in name else name: (network, vlan) for name, network, vlan in networks
    }
    everywhere = wanted.pop(OTHERS, ("", 0))
    for nic in nics:
        by_mac = wanted.pop(nic.mac.lower(), everywhere)
        network, vlan = wanted.pop(nic.name, by_mac)
        yield replace(nic, network=network, vlan=vlan)
    if wanted:
        there = ", ".join(nic.name for nic in nics) or "none"
        raise UsageError(
            problem=f"there is no interface '{next(iter(wanted))}' here; there are: {there}"
        )


def planned_vm(
    machine: Machine, disks: Sequence[Disk], wanted: FirmwareKind | None = None
) -> VmSettings:
    """Return the virtual machine that has what `machine` has; its NICs have no network yet.

    Raises:
        UsageError: the disks can't start by the firmware that is `wanted`.
    """
    os = _family(disks)
    kind = firmware.choose(firmware.possible(machine, disks), wanted)
    cpus = machine.cpus
    return VmSettings(
        name=machine.name,
        cpus=max(cpus.sockets * cpus.cores * cpus.threads, 1),
        memory=machine.memory.installed or machine.memory.usable,
        firmware=kind,
        secure_boot=_secure_boot(machine, kind, os),
        architecture=cpus.architecture or "x86_64",
        os=os,
        os_name=machine.os.name,
        nics=tuple(_nics(machine)),
        load=_load(machine.load, machine, disks),
    )


def disk_use(disk: PlannedDisk, source: Disk) -> int:
    """Return the bytes that the plan copies of a disk; 0 where there is nothing to tell from."""
    known = {partition.number: partition.used for partition in source.partitions}
    total = 0
    for partition in disk.partitions:
        if partition.treatment is Treatment.COPY:
            total += partition.size
        elif partition.treatment is Treatment.USED:
            used = known.get(partition.number)
            total += partition.size if used is None else used
    return total


def _family(disks: Sequence[Disk]) -> OsFamily:
    """Judge by the file systems: the system that runs may be a live one."""
    found = {partition.content for disk in disks for partition in disk.partitions}
    if found & _LINUX:
        return OsFamily.LINUX
    return OsFamily.WINDOWS if found & _WINDOWS else OsFamily.OTHER


def _secure_boot(machine: Machine, kind: FirmwareKind, os: OsFamily) -> SecureBoot:
    if kind is not FirmwareKind.UEFI or not machine.firmware.secure_boot:
        return SecureBoot.OFF
    return SecureBoot.MICROSOFT if os is OsFamily.WINDOWS else SecureBoot.UEFI_CA


def _nics(machine: Machine) -> Iterator[VmNic]:
    """Yield an adapter for each card, one for a bond: hosts do their own bonding."""
    for nic in machine.nics:
        if nic.kind in _CARDS and nic.mac and not _bonded(machine, nic.master):
            yield VmNic(name=nic.name, mac=nic.mac)


def _bonded(machine: Machine, master: str) -> bool:
    return any(nic.name == master and nic.kind is NicKind.BOND for nic in machine.nics)


def _load(load: Load | None, machine: Machine, disks: Sequence[Disk]) -> VmLoad | None:
    if load is None:
        return None
    cpus = machine.cpus
    names = {disk.name for disk in disks}
    cards = {nic.name for nic in machine.nics if nic.kind is NicKind.PHYSICAL}
    return VmLoad(
        busy_cores=load.cpu_percent / 100 * cpus.sockets * cpus.cores * cpus.threads,
        iops=sum(d.read_iops + d.write_iops for d in load.disks if d.name in names),
        network_bytes=sum(n.receive_bytes + n.send_bytes for n in load.nics if n.name in cards),
        window_s=load.window_s,
    )
