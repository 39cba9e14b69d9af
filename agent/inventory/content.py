# SPDX-License-Identifier: GPL-3.0-or-later
"""What a partition holds, by blkid's low-level probe: it needs no udev and no device node."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agent import tools
from agent.inventory import gpt, mbr
from p2v.model.errors import ToolError
from p2v.model.machine import ContentKind

_NOTHING, _AMBIGUOUS = 2, 8  # blkid(8), exit status
_ENCODED = re.compile(rb"\\x([0-9a-fA-F]{2})")
_SUSPENDED = ("swsuspend", "swsupend")  # the second is libblkid's spelling before 2.25


@dataclass(frozen=True, slots=True)
class Content:
    """What was found. `group` is the array of an md member."""

    kind: str = ContentKind.EMPTY
    version: str = ""
    uuid: str = ""
    label: str = ""
    hibernated: bool = False
    group: str = ""


def read_content(path: Path, offset: int, size: int, type_id: str = "") -> Content:
    """Return what the `size` bytes at `offset` of the disk `path` hold.

    `type_id` is the partition's: members of Windows dynamic disks look like what they carry.

    Raises:
        ToolError: blkid is missing or failed.
    """
    if type_id in gpt.LDM_TYPES or type_id == mbr.LDM_TYPE:
        return Content(ContentKind.LDM)
    argv = ["blkid", "-p", "-o", "udev", "-O", str(offset), "-S", str(size), str(path)]
    try:
        return parse_blkid(tools.run(argv, accept=(0, _NOTHING)))
    except ToolError as error:
        if f"exit status {_AMBIGUOUS}" not in str(error):
            raise
        return Content(ContentKind.UNKNOWN)


def parse_blkid(text: bytes) -> Content:
    """Return the content in the output of ``blkid -p -o udev``."""
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(b"=")
        fields[name.decode(errors="replace")] = _decoded(value)
    kind = fields.get("ID_FS_TYPE", ContentKind.EMPTY)
    hibernated = kind in _SUSPENDED
    return Content(
        kind=ContentKind.SWAP if hibernated else kind,
        version=fields.get("ID_FS_VERSION", ""),
        uuid=fields.get("ID_FS_UUID_ENC", ""),
        label=fields.get("ID_FS_LABEL_ENC", ""),
        hibernated=hibernated,
        group=fields.get("ID_FS_UUID_ENC", "") if kind == ContentKind.MD else "",
    )


def _decoded(value: bytes) -> str:
    raw = _ENCODED.sub(lambda match: bytes([int(match[1], 16)]), value)
    return raw.decode(errors="replace")
