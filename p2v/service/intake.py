# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan must be, beyond making sense, for this converter to take it; migrations' ids."""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from typing import Any

from p2v.model.errors import UsageError
from p2v.model.plan import Plan, PlannedDisk
from p2v.model.planfile import to_json
from p2v.model.units import TiB
from p2v.service.receiver import image_name

MAX_DISKS = 64
MAX_PARTITIONS = 1024
MAX_SIZE = 64 * TiB
"""The most a VHDX can hold ([MS-VHDX] 2.6.2.2)."""
_ID = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")


def check_plan(plan: Plan) -> None:
    """Make sure that images can be made for `plan`.

    Raises:
        UsageError: they can't; it says which part is wrong.
    """
    if not 1 <= len(plan.disks) <= MAX_DISKS:
        raise UsageError(problem=f"the plan has {len(plan.disks)} disks, not 1 to {MAX_DISKS}")
    for disk in plan.disks:
        _check_disk(disk)
    _storable(to_json(plan), "plan")
    # A store on a Windows share may not tell upper from lower case.
    names = Counter(image_name(plan, index).lower() for index in range(len(plan.disks)))
    if twice := [name for name, count in names.items() if count > 1]:
        raise UsageError(problem=f"two disks of the plan would both become {twice[0]}; rename one")


def _check_disk(disk: PlannedDisk) -> None:
    if not 0 < disk.size <= MAX_SIZE:
        raise UsageError(problem=f"disk '{disk.name}' has {disk.size} bytes, not 1 to {MAX_SIZE}")
    if len(disk.partitions) > MAX_PARTITIONS:
        raise UsageError(problem=f"disk '{disk.name}' has over {MAX_PARTITIONS} partitions")


def check_report(report: dict[str, Any]) -> None:
    """Make sure that the agent's report can be kept.

    Raises:
        UsageError: it can't.
    """
    _storable(report, "report")


def _storable(document: object, what: str) -> None:
    """Refuse what Python reads as JSON and nothing else does: NaN, lone surrogates."""
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(problem=f"the {what} is no plain JSON ({error})") from None


def check_id(text: str) -> str:
    """Return `text` if it can be a migration's id.

    Raises:
        UsageError: it can't.
    """
    if not _ID.fullmatch(text):
        raise UsageError(problem="an id has 3 to 63 lower-case letters, digits and dashes")
    return text


def new_id(name: str) -> str:
    """Return a fresh id that tells people which machine it is: ``web01-7f3a9c04``."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-")
    return f"{readable or 'machine'}-{secrets.token_hex(4)}"
