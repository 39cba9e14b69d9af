# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as TOML, for people and files, and as JSON-able dicts, for the API.

Reading is strict: a plan runs unattended, so an unknown key, a wrong type or a layout that can't be
is a `UsageError` that names the place, never a guess.
"""

from __future__ import annotations

import tomllib
from typing import Any, cast

import tomli_w

from p2v.model.document import decode, encode
from p2v.model.errors import UsageError
from p2v.model.plan import PLAN_VERSION, Plan, PlannedDisk

_HEADER = (
    "# A p2v migration plan. Carry it out with: p2v-agent migrate --plan FILE --server URL\n"
    "# Sizes and starts are bytes; treatment is copy, used, swap or exclude.\n"
)
_SECTORS = (512, 4096)


def dump(plan: Plan) -> str:
    """Return `plan` as TOML text that `load` reads back to an equal plan."""
    return _HEADER + tomli_w.dumps(to_json(plan), multiline_strings=False)


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
