# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as TOML, for people and files, and as JSON-able dicts, for the API.

Reading is strict: a plan runs unattended, so an unknown key, a wrong type or a layout that can't be
is a `UsageError` that names the place, never a guess.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, cast

import tomli_w

from p2v.model.document import decode, encode
from p2v.model.errors import UsageError, reason
from p2v.model.machine import FirmwareKind
from p2v.model.plan import PLAN_VERSION, Plan, PlannedDisk
from p2v.model.vm import SecureBoot, VmNic, VmSettings

_HEADER = (
    "# A p2v migration plan. Carry it out with: p2v-agent migrate --plan FILE --server URL\n"
    "# Sizes and starts are bytes; treatment is copy, used, swap or exclude.\n"
)
_SECTORS = (512, 4096)
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", re.IGNORECASE)
_MAX_TAG = 4094
_MULTICAST = 0x01
"""IEEE 802 addresses: the bit that says that an address is no single adapter's."""


def dump(plan: Plan) -> str:
    """Return `plan` as TOML text that `load` reads back to an equal plan."""
    return _HEADER + tomli_w.dumps(_without_none(to_json(plan)), multiline_strings=False)


def _without_none(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out the keys that have no value: TOML has no null."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in document.items()
        if value is not None
    }


def load(text: str) -> Plan:
    """Return the plan in the TOML `text`.

    Raises:
        UsageError: no TOML, another version, an unknown key, a wrong type, an impossible layout.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(problem=f"the plan is not TOML: {error}") from None
    return from_json(document)


def read(path: Path) -> Plan:
    """Return the plan in the file `path`.

    Raises:
        UsageError: it can't be read, or is no valid plan.
    """
    try:
        return load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(problem=f"the plan {path} can't be read: {reason(error)}") from None
    except UsageError as error:
        raise UsageError(problem=f"{path}: {error}") from None


def to_json(plan: Plan) -> dict[str, Any]:
    """Return `plan` as dicts, lists and plain values, the version first."""
    document = cast(dict[str, Any], encode(plan))
    disks = document.pop("disks")
    return {"version": document.pop("version"), **document, "disks": disks}


def from_json(document: object) -> Plan:
    """Return the plan that `document` (see `to_json`) describes.

    Raises:
        UsageError: another version, an unknown key, a wrong type, an impossible layout.
    """
    version = document.get("version") if isinstance(document, dict) else None
    if version != PLAN_VERSION:
        raise UsageError(
            problem=f"the plan has version {version!r}, this p2v reads version {PLAN_VERSION}"
        )
    plan = decode(Plan, document, "plan")
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    if not plan.disks:
        raise UsageError(problem="the plan names no disk")
    if plan.bwlimit < 0:
        raise UsageError(problem="plan.bwlimit must not be negative")
    names = [disk.name for disk in plan.disks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(problem=f"the plan names the disk '{min(twice)}' twice")
    for disk in plan.disks:
        _check_disk(disk)
    if plan.vm is not None:
        _check_vm(plan.vm)


def _check_disk(disk: PlannedDisk) -> None:
    if disk.logical_sector not in _SECTORS:
        raise UsageError(
            problem=f"disk {disk.name}: logical_sector is {disk.logical_sector}, not 512 or 4096"
        )
    if disk.size <= 0 or disk.size % disk.logical_sector:
        raise UsageError(problem=f"disk {disk.name}: size {disk.size} is no number of sectors")
    end = 0
    for partition in sorted(disk.partitions, key=lambda p: p.start):
        if partition.start < end:
            raise UsageError(
                problem=f"disk {disk.name}: partition {partition.number} overlaps the one before it"
            )
        end = partition.start + partition.size
        if partition.size <= 0 or end > disk.size:
            raise UsageError(
                problem=f"disk {disk.name}: partition {partition.number} leaves the disk"
            )


def _check_vm(vm: VmSettings) -> None:
    if vm.cpus <= 0 or vm.memory <= 0:
        raise UsageError(problem="vm.cpus and vm.memory must be more than zero")
    if vm.secure_boot is not SecureBoot.OFF and vm.firmware is not FirmwareKind.UEFI:
        raise UsageError(problem="vm.secure_boot needs vm.firmware = 'uefi'")
    for name, text in (("name", vm.name), ("host", vm.host), ("storage", vm.storage)):
        if not text.isprintable():
            raise UsageError(problem=f"vm.{name} has characters that can't be printed")
    if vm.load is not None and min(vm.load.busy_cores, vm.load.iops, vm.load.network_bytes) < 0:
        raise UsageError(problem="vm.load must not be negative")
    for nic in vm.nics:
        _check_nic(nic)


def _check_nic(nic: VmNic) -> None:
    if nic.mac and (not _MAC.fullmatch(nic.mac) or int(nic.mac[:2], 16) & _MULTICAST):
        raise UsageError(problem=f"NIC {nic.name}: '{nic.mac}' is no adapter's MAC address")
    if not 0 <= nic.vlan <= _MAX_TAG:
        raise UsageError(problem=f"NIC {nic.name}: VLAN {nic.vlan} is not within 0 to {_MAX_TAG}")
    if not (nic.network.isprintable() and nic.name.isprintable()):
        raise UsageError(problem="a NIC's name or network has characters that can't be printed")
