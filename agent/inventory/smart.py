# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk says of its own health, by smartctl."""

from __future__ import annotations

import json
from typing import Any

from agent import tools
from p2v.model.errors import ToolError
from p2v.model.machine import Smart

# smartctl(8): the bits of 0..2 say that it could not ask; the others describe the disk.
_COULD_NOT_ASK = 0x7
_REALLOCATED, _PENDING = 5, 197


def read_smart(path: str) -> Smart | None:
    """Return the health of the disk `path`, None where it has no such thing (virtual disks).

    Raises:
        ToolError: smartctl is missing, hung or said nonsense.
    """
    argv = ["smartctl", "--json", "--health", "--attributes", path]
    return parse_smart(tools.run(argv, timeout_s=20, accept=range(256)))


def parse_smart(text: bytes) -> Smart | None:
    """Return the health in the output of ``smartctl --json``, None where it holds none.

    Raises:
        ToolError: it is not such a document.
    """
    try:
        document = json.loads(text)
        return _smart(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolError(tool="smartctl", problem=f"its output makes no sense: {error}") from error


def _smart(document: dict[str, Any]) -> Smart | None:
    if document["smartctl"]["exit_status"] & _COULD_NOT_ASK and "smart_status" not in document:
        return None
    attributes = {
        row["id"]: row["raw"]["value"]
        for row in document.get("ata_smart_attributes", {}).get("table", [])
    }
    nvme = document.get("nvme_smart_health_information_log", {})
    return Smart(
        passed=document.get("smart_status", {}).get("passed"),
        temperature_c=document.get("temperature", {}).get("current"),
        power_on_hours=document.get("power_on_time", {}).get("hours"),
        reallocated_sectors=attributes.get(_REALLOCATED),
        pending_sectors=attributes.get(_PENDING),
        media_errors=nvme.get("media_errors"),
        percentage_used=nvme.get("percentage_used"),
    )
