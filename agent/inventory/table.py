# SPDX-License-Identifier: GPL-3.0-or-later
"""Partition tables: geometry and flags by libparted, GUIDs and type bytes read beside it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent import tools
from agent.inventory import gpt, mbr
from agent.inventory.volume.window import VolumeDamagedError, open_window
from p2v.model.errors import ToolError
from p2v.model.machine import Partition

_TIMEOUT_S = 30
_SECTORS = (512, 4096)


@dataclass(frozen=True, slots=True)
class Table:
    """A disk's partition table.

    Attributes:
        kind: libparted's name, or "none"; "damaged" where there is one that cannot be read.
        uuid: of the table.
        sector: bytes; for an image file it is found out by where the GPT stands.
        partitions: geometry, types and flags; contents are not looked at.
        said: what libparted has to say of the table, in its own words.
    """

    kind: str
    sector: int
    uuid: str = ""
    partitions: tuple[Partition, ...] = ()
    said: tuple[str, ...] = ()


def read_table(path: Path, size: int, sector: int, block: bool) -> Table:
    """Return the partition table of the disk `path` of `size` bytes.

    Raises:
        ToolError: the reader's process could not be run.
    """
    if not block:
        sector = _image_sector(path, size) or sector
    try:
        document = _ask_libparted(path, sector)
    except ToolError as error:
        # Its process died of the table: an assertion, memory, or time.
        return Table("damaged", sector, said=(str(error.fields["problem"]),))
    kind, said = document["type"] or "damaged", tuple(document["said"])
    if kind == "damaged":
        return Table(kind, sector, said=said or (str(document["error"]),))
    if kind == "none":
        return _without_table(path, size, sector, said)
    return _with_types(path, size, kind, sector, _partitions(document, sector, size), said)


def _image_sector(path: Path, size: int) -> int | None:
    with open_window(path, 0, size) as window:
        return next((sector for sector in _SECTORS if gpt.is_gpt(window, sector)), None)


def _ask_libparted(path: Path, sector: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "agent.inventory.table_child", str(path), str(sector)]
    text = tools.run(argv, timeout_s=_TIMEOUT_S)
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ToolError(tool="libparted", problem="its reader said nothing") from error
    return dict(document)


def _partitions(document: dict[str, Any], sector: int, size: int) -> list[Partition]:
    """Return the partitions that hold something themselves, cut where the disk ends before them."""
    found = []
    for entry in sorted(document["partitions"], key=lambda e: (e["start"], e["number"])):
        start, length = entry["start"] * sector, entry["length"] * sector
        length = min(length, size - start)
        if entry["extended"] or entry["number"] < 1 or length <= 0:
            continue
        flags = tuple(entry["flags"])
        found.append(Partition(entry["number"], start, length, name=entry["name"], flags=flags))
    return found


def _without_table(path: Path, size: int, sector: int, said: tuple[str, ...]) -> Table:
    """A GPT that libparted does not recognise is a damaged one, not none."""
    with open_window(path, 0, size) as window:
        if gpt.is_gpt(window, sector):
            return Table("damaged", sector, said=(*said, "the GPT cannot be read"))
    return Table("none", sector, said=said)


def _with_types(
    path: Path, size: int, kind: str, sector: int, parts: list[Partition], said: tuple[str, ...]
) -> Table:
    found: dict[int, _Typed] = {}
    uuid = ""
    try:
        with open_window(path, 0, size) as window:
            if kind == "gpt":
                table = gpt.read_gpt(window, sector)
                uuid = table.uuid
                found = {
                    e.start: _Typed(e.type, gpt.TYPES.get(e.type, ""), e.uuid, e.name)
                    for e in table.entries
                }
            elif kind == "msdos":
                record = mbr.read_mbr(window, sector)
                uuid = record.signature
                found = {
                    start: _Typed(f"{byte:#04x}", mbr.TYPES.get(byte, ""))
                    for start, byte in record.types.items()
                }
    except VolumeDamagedError as error:
        said = (*said, str(error))
    return Table(kind, sector, uuid, tuple(_typed(p, found) for p in parts), said)


@dataclass(frozen=True, slots=True)
class _Typed:
    type_id: str
    type_name: str
    uuid: str = ""
    name: str = ""


def _typed(partition: Partition, found: dict[int, _Typed]) -> Partition:
    known = found.get(partition.start)
    if known is None:
        return partition
    return replace(
        partition,
        type_id=known.type_id,
        type_name=known.type_name,
        uuid_in_table=known.uuid,
        name=known.name or partition.name,
    )
