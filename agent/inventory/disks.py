# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks: what the kernel says of each, its partition table, and what the partitions hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent import tools
from agent.device import Geometry, geometry, partition_node, resolve
from agent.inventory.content import read_content
from agent.inventory.problems import Problems
from agent.inventory.smart import read_smart
from agent.inventory.table import Table, read_table
from agent.inventory.volume.state import volume_state
from agent.mounts import Mount, device_number, mounts, mounts_of, stacked_on
from p2v.model.errors import DiskUnreadableError, NoSuchDiskError, ToolError
from p2v.model.machine import ContentKind, Disk, Partition, Severity, Smart

_NOT_DISKS = ("zram", "ram", "fd", "nbd", "md")
_COLUMNS = "NAME,PATH,TYPE,SIZE,MODEL,VENDOR,SERIAL,WWN,TRAN,ROTA,RM,RO,LOG-SEC,PHY-SEC"


@dataclass(frozen=True, slots=True)
class Device:
    """A disk that lsblk lists; its partitions are not asked of it."""

    name: str
    path: str
    model: str = ""
    vendor: str = ""
    serial: str = ""
    wwn: str = ""
    transport: str = ""
    rotational: bool = False
    removable: bool = False
    read_only: bool = False
    geometry: Geometry | None = None
    """By lsblk, for a disk that cannot be opened."""


def list_devices() -> tuple[Device, ...]:
    """Return the physical disks: no loop devices, memory disks or optical drives.

    Raises:
        ToolError: lsblk failed.
    """
    rows = _lsblk([])
    return tuple(
        _device(row)
        for row in rows
        if row.get("type") == "disk"
        and row.get("size")
        and not str(row["name"]).startswith(_NOT_DISKS)
    )


def _lsblk(paths: Iterable[str]) -> list[dict[str, Any]]:
    argv = ["lsblk", "--json", "--bytes", "--nodeps", "--output", _COLUMNS, *paths]
    text = tools.run(argv)
    try:
        return list(json.loads(text)["blockdevices"])
    except (ValueError, KeyError, TypeError) as error:
        raise ToolError(tool="lsblk", problem=f"its output makes no sense: {error}") from error


def _device(row: dict[str, Any]) -> Device:
    def text(key: str) -> str:
        return str(row.get(key) or "").strip()

    return Device(
        name=text("name"),
        path=text("path"),
        model=text("model"),
        vendor=text("vendor"),
        serial=text("serial"),
        wwn=text("wwn"),
        transport=text("tran"),
        rotational=bool(row.get("rota")),
        removable=bool(row.get("rm")),
        read_only=bool(row.get("ro")),
        geometry=Geometry(row["size"], row["log-sec"], row["phy-sec"], block=True),
    )


def find_device(name: str) -> Device:
    """Return the disk or image file `name`: ``sda``, ``/dev/loop0``, ``disk.img``.

    Raises:
        NoSuchDiskError: there is none.
    """
    path = resolve(name)
    if not path.is_block_device():
        return Device(name=path.name, path=str(path), read_only=not os.access(path, os.W_OK))
    try:
        rows = _lsblk([str(path)])
    except ToolError as error:
        raise NoSuchDiskError(disk=name) from error
    return _device(rows[0])


def inspect_disk(device: Device, problems: Problems) -> Disk:
    """Return all that can be found out about `device`; what cannot goes to `problems`.

    Raises:
        DiskUnreadableError: it is a file that cannot be opened.
    """
    path = Path(device.path)
    try:
        shape = _geometry(path)
    except DiskUnreadableError as error:
        if device.geometry is None:
            raise
        problems.add(Severity.ERROR, "disk-unreadable", device.name, str(error), error.way_out)
        return _disk(device, device.geometry, Table("unreadable", device.geometry.logical_sector))
    table = Table("damaged", shape.logical_sector)
    with problems.collect("table-unreadable", device.name):
        table = read_table(path, shape.size, shape.logical_sector, shape.block)
    _report_table(device, table, problems)
    return replace(
        _disk(device, shape, table),
        smart=_smart(device, shape, problems),
        partitions=_partitions(device, shape, table, problems),
        holders=_holders(path),
    )


def _disk(device: Device, shape: Geometry, table: Table) -> Disk:
    return Disk(
        name=device.name,
        path=device.path,
        size=shape.size,
        logical_sector=table.sector if not shape.block else shape.logical_sector,
        physical_sector=max(shape.physical_sector, table.sector),
        model=device.model,
        vendor=device.vendor,
        serial=device.serial,
        wwn=device.wwn,
        transport=device.transport,
        rotational=device.rotational,
        removable=device.removable,
        read_only=device.read_only,
        table=table.kind,
        table_uuid=table.uuid,
    )


def _geometry(path: Path) -> Geometry:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DiskUnreadableError(disk=path, problem=error.strerror) from error
    try:
        return geometry(fd)
    finally:
        os.close(fd)


def _report_table(device: Device, table: Table, problems: Problems) -> None:
    if table.kind == "damaged":
        problems.add(
            Severity.ERROR,
            "table-damaged",
            device.name,
            f"The partition table cannot be read: {' '.join(table.said)}".rstrip(".") + ".",
            "The whole disk will be copied, every block of it.",
        )
        return
    for said in table.said:
        problems.add(
            Severity.WARNING,
            "table-suspicious",
            device.name,
            f"libparted says of the partition table: {said}",
            "It is copied as it is; repair it on the source or in the virtual machine.",
        )


def _smart(device: Device, shape: Geometry, problems: Problems) -> Smart | None:
    if not shape.block or device.name.startswith("loop"):
        return None
    with problems.collect("smart-unreadable", device.name):
        return read_smart(device.path)
    return None


def _holders(path: Path) -> tuple[str, ...]:
    number = device_number(path)
    if number is None:
        return ()
    own = Path(path).resolve().name
    stacked = stacked_on(number).values()
    return tuple(sorted(name for name in stacked if not name.startswith(own)))


def _partitions(
    device: Device, shape: Geometry, table: Table, problems: Problems
) -> tuple[Partition, ...]:
    path = Path(device.path)
    if table.kind == "damaged":
        return ()
    if table.kind == "none":
        whole = _inspect(path, Partition(0, 0, shape.size), device.name, problems)
        return (whole,) if whole.content else ()
    return tuple(
        _inspect(path, part, f"{device.name}:{part.number}", problems) for part in table.partitions
    )


def _inspect(disk: Path, partition: Partition, subject: str, problems: Problems) -> Partition:
    """Return `partition` with what it holds, how full it is and where it is mounted."""
    node = disk if partition.number == 0 and disk.is_block_device() else None
    node = node or partition_node(disk, partition.start, partition.size)
    place, offset = (node, 0) if node else (disk, partition.start)
    partition = replace(partition, path=str(node) if node else "")
    with problems.collect("content-unreadable", subject, "Every block of it will be copied."):
        found = read_content(place, offset, partition.size, partition.type_id)
        partition = replace(
            partition,
            content=found.kind,
            version=found.version,
            uuid=found.uuid,
            label=found.label,
            group=found.group,
            hibernated=found.hibernated,
        )
    if partition.content == ContentKind.UNKNOWN:
        problems.add(
            Severity.WARNING,
            "content-ambiguous",
            subject,
            "It carries the signatures of several kinds of contents.",
            "Every block of it will be copied; 'wipefs' shows the signatures.",
        )
    mounted, managed = _mounts(node), None
    with problems.collect("volume-damaged", subject, "Every block of it will be copied."):
        state = volume_state(place, offset, partition.size, partition.content)
        if state is not None:
            managed = state.size
            partition = replace(
                partition,
                used=state.used,
                unclean=state.unclean if not any(m.writable for m in mounted) else "",
                hibernated=state.hibernated,
                group=state.group,
            )
    return _mounted(partition, mounted, managed) if mounted else partition


def _mounts(node: Path | None) -> tuple[Mount, ...]:
    number = device_number(node) if node else None
    return mounts_of(number, mounts()) if number else ()


def _mounted(partition: Partition, mounted: tuple[Mount, ...], managed: int | None) -> Partition:
    """A mounted file system's own account is newer than its superblock's.

    statvfs leaves what the file system needs for itself out of its size: `managed` bytes are all.
    """
    first = min(mounted, key=lambda mount: len(mount.point))
    used = partition.used
    if managed is not None or used is None:
        try:
            status = os.statvfs(first.point)
        except OSError:
            pass  # mounted over, or gone: the superblock's figure stands
        else:
            size = managed or status.f_blocks * status.f_frsize
            used = max(0, size - status.f_bfree * status.f_frsize)
    return replace(
        partition,
        mount_point=first.point,
        writable=any(mount.writable for mount in mounted),
        used=used,
    )
