# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine: a physical server as the inventory found it. Its JSON is in docs/inventory.md.

Sizes, starts and rates are bytes and bytes a second. Text that could not be found out is empty, a
figure is None; where that matters to a migration there is a `Problem` too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from p2v.model.document import decode, encode
from p2v.model.errors import UsageError

MACHINE_SCHEMA = 1


class FirmwareKind(StrEnum):
    """What started the machine."""

    BIOS = "bios"
    UEFI = "uefi"


class Severity(StrEnum):
    """How much a problem matters to a migration."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class NicKind(StrEnum):
    """What a network interface is made of."""

    PHYSICAL = "physical"
    BOND = "bond"
    BRIDGE = "bridge"
    VLAN = "vlan"
    VIRTUAL = "virtual"


class ContentKind:
    """Names of contents that p2v treats in a way of their own; others are blkid's TYPE."""

    LVM = "LVM2_member"
    MD = "linux_raid_member"
    LUKS = "crypto_LUKS"
    BITLOCKER = "BitLocker"
    LDM = "ldm"
    SWAP = "swap"
    BTRFS = "btrfs"
    UNKNOWN = "unknown"
    EMPTY = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the inventory could not read, or that a migration has to know.

    `code` is a stable slug, `subject` what it is about (a device, an interface, "" for the
    machine), `action` what to do.
    """

    severity: Severity
    code: str
    subject: str
    message: str
    action: str = ""


@dataclass(frozen=True, slots=True)
class Firmware:
    """How the machine starts. `secure_boot` is None where the firmware does not tell."""

    kind: FirmwareKind
    secure_boot: bool | None = None


@dataclass(frozen=True, slots=True)
class Smbios:
    """Who made the machine, from SMBIOS."""

    vendor: str = ""
    product: str = ""
    version: str = ""
    serial: str = ""
    uuid: str = ""
    bios_vendor: str = ""
    bios_version: str = ""
    bios_date: str = ""


@dataclass(frozen=True, slots=True)
class Cpus:
    """The processors. `cores` are of one socket, `threads` of one core; `flags` a chosen few."""

    model: str = ""
    architecture: str = ""
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes: what the kernel manages, and what is plugged in where SMBIOS tells."""

    usable: int
    installed: int | None = None


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """The running operating system, from os-release(5) and uname(2)."""

    id: str = ""
    version: str = ""
    name: str = ""
    kernel: str = ""
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface. `speed` is megabits a second, `addresses` are CIDR."""

    name: str
    mac: str = ""
    kind: NicKind = NicKind.VIRTUAL
    driver: str = ""
    speed: int | None = None
    mtu: int = 0
    up: bool = False
    addresses: tuple[str, ...] = ()
    master: str = ""
    """The bond or bridge that it belongs to."""
    parent: str = ""
    """The interface that a VLAN rides on."""
    vlan: int | None = None
    bond_mode: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table; `destination` is CIDR or "default"."""

    destination: str
    interface: str
    gateway: str = ""
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Smart:
    """What a disk says of its own health; None where it does not say."""

    passed: bool | None = None
    temperature_c: int | None = None
    power_on_hours: int | None = None
    reallocated_sectors: int | None = None
    pending_sectors: int | None = None
    media_errors: int | None = None
    percentage_used: int | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition, or with number 0 what fills a disk that has no partition table.

    Attributes:
        start: byte where it begins on the disk.
        path: its device node; empty where there is none (image files).
        type_id: GPT type GUID, or MBR type byte as ``0x83``.
        name: the name in the GPT.
        flags: libparted's names: ``boot``, ``esp``, ``bios_grub``, ``raid``, ``lvm`` ...
        content: what it holds, by blkid's names (`ContentKind`); empty where nothing is found.
        group: the set that it is a member of: the volume group's name, the array's UUID.
        used: bytes in use by the file system's own account.
        writable: mounted, and the file system may write.
        unclean: why the file system needs recovery, in words; empty where it is clean.
        hibernated: a swap that holds a hibernation image, or a Windows volume that is suspended.
    """

    number: int
    start: int
    size: int
    path: str = ""
    name: str = ""
    type_id: str = ""
    type_name: str = ""
    uuid_in_table: str = ""
    flags: tuple[str, ...] = ()
    content: str = ContentKind.EMPTY
    version: str = ""
    uuid: str = ""
    label: str = ""
    group: str = ""
    used: int | None = None
    mount_point: str = ""
    writable: bool = False
    unclean: str = ""
    hibernated: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, loop device or image file.

    `table` is libparted's name of the partition table, or "none"; `table_uuid` its GUID or MBR
    signature; `holders` are the kernel's users of the disk and its partitions (dm, md, swap).
    """

    name: str
    path: str
    size: int
    logical_sector: int = 512
    physical_sector: int = 512
    model: str = ""
    vendor: str = ""
    serial: str = ""
    wwn: str = ""
    transport: str = ""
    rotational: bool = False
    removable: bool = False
    read_only: bool = False
    smart: Smart | None = None
    table: str = "none"
    table_uuid: str = ""
    partitions: tuple[Partition, ...] = ()
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskLoad:
    """I/O of a disk, each a second."""

    name: str
    read_iops: float
    write_iops: float
    read_bytes: float
    write_bytes: float


@dataclass(frozen=True, slots=True)
class NicLoad:
    """Traffic of an interface, bytes a second."""

    name: str
    receive_bytes: float
    send_bytes: float


@dataclass(frozen=True, slots=True)
class Load:
    """What the machine was doing during `window_s` seconds; `cpu_percent` of all processors."""

    window_s: float
    cpu_percent: float
    memory_used: int
    disks: tuple[DiskLoad, ...] = ()
    nics: tuple[NicLoad, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """A physical server as found."""

    name: str
    firmware: Firmware
    smbios: Smbios
    cpus: Cpus
    memory: Memory
    os: OperatingSystem
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    routes: tuple[Route, ...] = ()
    load: Load | None = None
    problems: tuple[Problem, ...] = ()
    schema: int = MACHINE_SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Return the document of docs/inventory.md, made of dicts, lists and plain values."""
        return cast(dict[str, Any], encode(self))

    @classmethod
    def from_json(cls, document: object) -> Machine:
        """Return the machine that `document` (see `to_json`) describes.

        Raises:
            UsageError: another schema, an unknown or missing key, or a value of the wrong type.
        """
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema != MACHINE_SCHEMA:
            raise UsageError(
                problem=f"the inventory has schema {schema!r}, this version reads {MACHINE_SCHEMA}"
            )
        return decode(cls, document, "inventory")
