# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine that a plan asks for: its settings, NICs and the load that it will bring.

Sizes are bytes, rates bytes or operations a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from p2v.model.machine import FirmwareKind


class OsFamily(StrEnum):
    """What kind of guest it is, as far as a host treats it differently."""

    LINUX = "linux"
    WINDOWS = "windows"
    OTHER = "other"


class SecureBoot(StrEnum):
    """Whose signatures the virtual firmware accepts."""

    OFF = "off"
    MICROSOFT = "microsoft"
    """Windows loaders only."""
    UEFI_CA = "uefi-ca"
    """Loaders that Microsoft's third-party authority signed: shim, and so Linux."""


class StartAction(StrEnum):
    """What a host does with the virtual machine when the host itself starts."""

    NEVER = "never"
    IF_RUNNING = "if-running"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class VmNic:
    """A network adapter.

    Attributes:
        name: the source's interface that it stands for.
        mac: kept from the source, so that addresses bound to it go on to work; empty for a new one.
        network: the host's switch, bridge or port group; empty to leave it unconnected.
        vlan: 802.1Q tag, 0 for none.
        connected: False keeps the cable out until somebody has looked at the guest.
    """

    name: str
    mac: str = ""
    network: str = ""
    vlan: int = 0
    connected: bool = True


@dataclass(frozen=True, slots=True)
class VmLoad:
    """What the guest is expected to ask of its host: what was measured on the source.

    `busy_cores` is the sum over its processors, 1.5 for one and a half.
    """

    busy_cores: float
    iops: float
    network_bytes: float
    window_s: float = 0.0
    """How long the source was measured."""


@dataclass(frozen=True, slots=True)
class VmSettings:
    """The virtual machine of a plan, apart from its disks.

    Attributes:
        name: as the host shows it; the plan's name where it is empty.
        cpus: virtual processors.
        memory: all of it is reserved when the machine starts.
        architecture: of the processors, as uname(2) says it.
        create: whether the converter makes it when the images are finished.
        host: the name of the chosen host; empty leaves the choice to the rating.
        storage: the chosen datastore, pool or folder of the host; empty takes the roomiest.
        clustered: highly available: it must be on a cluster.
        power_on: whether it is started when it is made.
        load: None where the source was not measured.
        isolated: a domain controller's cables stay out, whatever its NICs say, until somebody has
            looked at it: two of one, or one that went back in time, damage the domain.
    """

    cpus: int
    memory: int
    name: str = ""
    firmware: FirmwareKind = FirmwareKind.BIOS
    secure_boot: SecureBoot = SecureBoot.OFF
    architecture: str = "x86_64"
    os: OsFamily = OsFamily.OTHER
    os_name: str = ""
    create: bool = False
    host: str = ""
    storage: str = ""
    clustered: bool = False
    power_on: bool = False
    start_action: StartAction = StartAction.NEVER
    nics: tuple[VmNic, ...] = ()
    load: VmLoad | None = None
    isolated: bool = True
