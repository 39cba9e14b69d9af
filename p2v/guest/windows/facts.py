# SPDX-License-Identifier: GPL-3.0-or-later
"""What the planner for Windows guests may know of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class VolumeState(StrEnum):
    """Whether the volume with Windows may be written to."""

    CLEAN = "clean"
    UNCLEAN = "unclean"
    """It was not unmounted, or is marked for chkdsk."""
    HIBERNATED = "hibernated"
    """It belongs to a Windows that sleeps, or was shut down with Fast Startup."""


@dataclass(frozen=True, slots=True)
class Service:
    """A driver or service of a control set.

    Attributes:
        name: of its key.
        start: 0 boot, 1 system, 2 automatic, 3 demand, 4 disabled; -1 where it says nothing.
        overridden: whether a `StartOverride` decides instead; Windows 8 and later write one for
            drivers whose hardware they did not see.
        image: path of its program as the registry has it, "" for Windows' default.
    """

    name: str
    start: int
    overridden: bool = False
    image: str = ""

    @property
    def file(self) -> str:
        """Name of a driver's file, in lower case."""
        path = self.image.lower().replace("/", "\\")
        return path.rpartition("\\")[2] or f"{self.name.lower()}.sys"

    @property
    def in_drivers(self) -> bool:
        """Whether its file should be in System32/drivers."""
        folder = self.image.lower().replace("/", "\\").rpartition("\\")[0]
        return not self.image or folder.endswith("system32\\drivers")


@dataclass(frozen=True, slots=True)
class Filters:
    """The filter drivers of a class of devices.

    Attributes:
        key: of the class: `{4d36e967-e325-11ce-bfc1-08002be10318}`.
        device_class: its name: `DiskDrive`.
        value: `UpperFilters` or `LowerFilters`.
        names: the services, in order.
    """

    key: str
    device_class: str
    value: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ControlSet:
    """A `ControlSetNNN` of the SYSTEM hive; settings that are not there are -1.

    Attributes:
        name: `ControlSet001`.
        services: all of them, with their keys' own case.
        filters: of classes that disks depend on.
        critical: ids of the CriticalDeviceDatabase in lower case (Windows 7 and older).
        san_policy: partmgr's; 1 brings all disks online.
        fast_startup: Session Manager's HiberbootEnabled.
        auto_reboot: CrashControl's.
    """

    name: str
    services: tuple[Service, ...] = ()
    filters: tuple[Filters, ...] = ()
    critical: tuple[str, ...] = ()
    san_policy: int = -1
    fast_startup: int = -1
    auto_reboot: int = -1

    def service(self, name: str) -> Service | None:
        """Return the service of that name, whatever its case."""
        wanted = name.lower()
        return next((one for one in self.services if one.name.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address with its mask, both dotted."""

    address: str
    mask: str


@dataclass(frozen=True, slots=True)
class Interface:
    r"""What a network adapter of the source was configured with.

    Attributes:
        key: its GUID in braces, as the key under Tcpip writes it.
        name: of the connection: `Ethernet`.
        device: instance id of the adapter: `PCI\VEN_8086...`.
        mac: `aa:bb:cc:dd:ee:ff`, "" where the registry does not tell.
        addresses: static ones; none where DHCP gives them.
        gateways, dns, wins: addresses, in order.
        suffix: DNS suffix of the connection.
    """

    key: str
    name: str = ""
    device: str = ""
    mac: str = ""
    addresses: tuple[Address, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    wins: tuple[str, ...] = ()
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class SystemPartition:
    """The EFI system partition; `manager` and `fallback` tell which of its loaders are there."""

    device: str
    manager: bool
    fallback: bool


@dataclass(frozen=True, slots=True)
class WindowsFacts:
    """A Windows guest.

    Attributes:
        system_root: path of its Windows folder: `/Windows`.
        hive: path of its SYSTEM hive.
        damage: why its registry can't be read, "" if it can; then the rest is not known.
        recovered: changes that its logs hold and the hive does not yet; see `registry.recover`.
        logs: paths of the hive's logs.
        state: of its volume.
        product: `WinNT` a workstation, `ServerNT` a server, `LanmanNT` a domain controller.
        build: of the kernel.
        edition: `ServerStandard`, `Professional`, ...
        current: name of the control set that starts.
        control_sets: all of them.
        driver_database: whether drivers are found by the hive's DriverDatabase (Windows 8 on).
        drivers: files in System32/drivers, in lower case.
        packages: paths of files in the driver store that Hyper-V's drivers may be taken from.
        interfaces: those that are configured by hand, or have a server set by hand.
        powershell: whether Windows PowerShell is there.
        system_partition: where it starts by UEFI.
        dynamic: whether it lies on a dynamic disk.
        snapshot: the recovered hive, compressed by zstd: what the edited one is compared with.
    """

    system_root: str
    hive: str = "/Windows/System32/config/SYSTEM"
    damage: str = ""
    recovered: int = 0
    logs: tuple[str, ...] = ()
    state: VolumeState = VolumeState.CLEAN
    product: str = ""
    build: int = 0
    edition: str = ""
    current: str = "ControlSet001"
    control_sets: tuple[ControlSet, ...] = ()
    driver_database: bool = False
    drivers: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    powershell: bool = False
    system_partition: SystemPartition | None = None
    dynamic: bool = False
    snapshot: bytes = field(default=b"", repr=False)

    def control_set(self) -> ControlSet | None:
        """Return the control set that starts."""
        return next((one for one in self.control_sets if one.name == self.current), None)
