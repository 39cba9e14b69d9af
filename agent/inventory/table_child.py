# SPDX-License-Identifier: GPL-3.0-or-later
"""Read one partition table with libparted and print it as JSON: a process of its own.

libparted ends its process where a table breaks an assumption of it, so a hostile disk must not be
shown to it inside the agent. Called by `agent.inventory.table` only, as
``python -m agent.inventory.table_child PATH SECTOR_SIZE``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

from p2v.model.units import GiB

_NO_TABLE = "loop"  # libparted's name of a disk that is one file system
_NO_TABLES = ("unrecognised disk label", "cannot possibly store")  # the latter of a tiny file


def main(path: str, sector_size: str) -> None:
    """Print the partition table of `path` as one JSON object."""
    resource.setrlimit(resource.RLIMIT_AS, (2 * GiB, 2 * GiB))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["PARTED_SECTOR_SIZE"] = sector_size  # of image files; devices know their own
    import _ped
    import parted

    said: list[str] = []

    def answer(_kind: int, options: int, text: str) -> int:
        return _answer(said, options, text)

    # _ped takes no reference: the handler has to live as long as libparted may call it.
    _ped.register_exn_handler(answer)
    try:
        document = _table(parted.newDisk(parted.getDevice(path)))
    except (parted.DiskException, _ped.DiskException, _ped.IOException) as error:
        unknown = any(sign in text for text in [*said, str(error)] for sign in _NO_TABLES)
        document = {"type": "none" if unknown else "", "partitions": [], "error": str(error)}
        said = [text for text in said if not any(sign in text for sign in _NO_TABLES)]
    print(json.dumps({**document, "said": said}))


def _answer(said: list[str], options: int, text: str) -> int:
    """Keep what libparted says, and never let it repair anything."""
    import parted

    said.append(" ".join(text.split()))
    choices = (parted.EXCEPTION_RESOLVE_IGNORE, parted.EXCEPTION_RESOLVE_OK)
    for choice in (*choices, parted.EXCEPTION_RESOLVE_NO):
        if options & choice:
            return int(choice)
    return int(parted.EXCEPTION_RESOLVE_CANCEL)


def _table(disk: Any) -> dict[str, Any]:
    kind = str(disk.type)
    if kind == _NO_TABLE:
        return {"type": "none", "partitions": []}
    return {
        "type": kind,
        "sector": int(disk.device.sectorSize),
        "partitions": [_partition(disk, partition) for partition in disk.partitions],
    }


def _partition(disk: Any, partition: Any) -> dict[str, Any]:
    import parted

    # Names in a GPT are read elsewhere: libparted translates them to the locale, or fails to.
    named = disk.type != "gpt" and disk.supportsFeature(parted.DISK_TYPE_PARTITION_NAME)
    flags = partition.getFlagsAsString()
    return {
        "number": int(partition.number),
        "start": int(partition.geometry.start),
        "length": int(partition.geometry.length),
        "extended": bool(partition.type & parted.PARTITION_EXTENDED),
        "name": str(partition.name or "") if named else "",
        "flags": [flag.strip() for flag in flags.split(",") if flag.strip()],
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
