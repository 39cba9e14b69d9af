# SPDX-License-Identifier: GPL-3.0-or-later
"""A host: a hypervisor that may receive the virtual machine, as its adapter found it.

Sizes are bytes, rates bytes or operations a second. A capacity that could not be found out is 0:
what depends on it is left out of a rating, and the rating says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from p2v.model.machine import FirmwareKind
from p2v.model.plan import ImageFormat
from p2v.model.units import GiB, TiB


class HypervisorKind(StrEnum):
    """What runs on a host."""

    HYPERV = "hyperv"
    VMWARE = "vmware"
    XENSERVER = "xenserver"
    PROXMOX = "proxmox"
    LIBVIRT = "libvirt"


@dataclass(frozen=True, slots=True)
class HostStorage:
    """A place for disks: a datastore, pool, storage repository or folder."""

    name: str
    free: int
    total: int = 0
    shared: bool = False
    """Whether other hosts of its cluster reach it."""


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """What an adapter can be connected to; `vlans` is empty where any tag goes."""

    name: str
    vlans: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HostLoad:
    """What a host is doing: `cpu_percent` of all its processors, the rest absolute."""

    cpu_percent: float = 0.0
    memory_used: int = 0
    iops: float = 0.0
    network_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class HostReserve:
    """What a host keeps for itself; no virtual machine is placed into it."""

    cpu_percent: float = 10.0
    memory: int = 1 * GiB
    disk: int = 10 * GiB
    iops: float = 0.0
    network_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What a virtual machine on the host may have.

    Attributes:
        firmware: which kinds it can start.
        secure_boot: whether it can enforce signatures in a UEFI machine.
        cpus, memory: at most, of one virtual machine.
        disk: the largest virtual disk.
        formats: images that it takes, converted by its adapter where need be.
        sectors: logical sector sizes that it can show to a guest.
        architecture: of the guests that it runs, as uname(2) says it.
    """

    firmware: tuple[FirmwareKind, ...] = (FirmwareKind.BIOS, FirmwareKind.UEFI)
    secure_boot: bool = True
    cpus: int = 240
    memory: int = 12 * TiB
    disk: int = 62 * TiB
    formats: tuple[ImageFormat, ...] = tuple(ImageFormat)
    sectors: tuple[int, ...] = (512,)
    architecture: str = "x86_64"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host as found.

    Attributes:
        group: where it is in the tree, the outermost first: data center, cluster.
        cpus: logical processors.
        max_iops: what its storage can do, as its owner says; 0 where that is not known.
        network_rate: of all its uplinks together, 0 where that is not known.
        in_cluster: whether it can hold highly available machines.
        maintenance: it takes no machines for now.
        problem: why it does not answer, where its cluster does; the rest means nothing then.
    """

    name: str
    hypervisor: HypervisorKind
    cpus: int
    memory: int
    version: str = ""
    group: tuple[str, ...] = ()
    storages: tuple[HostStorage, ...] = ()
    networks: tuple[HostNetwork, ...] = ()
    load: HostLoad = HostLoad()
    reserve: HostReserve = HostReserve()
    limits: HostLimits = HostLimits()
    max_iops: float = 0.0
    network_rate: float = 0.0
    in_cluster: bool = False
    maintenance: bool = False
    problem: str = ""
