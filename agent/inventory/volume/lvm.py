# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM2 physical volumes: the name of the volume group.

Format: label in one of the first four sectors, a header that lists metadata areas, and in those the
text that vgcfgbackup(8) writes; see lvm2's lib/format_text/layout.h.
"""

from __future__ import annotations

import re
import struct

from agent.inventory.volume.window import State, VolumeDamagedError, Window
from p2v.model.units import KiB

_SECTOR = 512
_LABEL = b"LABELONE"
_TYPE = b"LVM2 001"
_AREA_MAGIC = b"\x20LVM2\x20x[5A%r0N*>"
_NAME = re.compile(rb"\s*([A-Za-z0-9_.+-]{1,127})\s*\{")
_PEEK = 4 * KiB


def read(window: Window) -> State:
    """Return the volume group as `group`; empty where the volume belongs to none yet.

    Raises:
        VolumeDamagedError: there is no label, or its metadata is not where it says.
    """
    for sector in range(4):
        label = window.read(sector * _SECTOR, _SECTOR)
        if label[:8] == _LABEL and label[24:32] == _TYPE:
            return State(group=_group(window, label))
    raise VolumeDamagedError(problem="no LVM2 label")


def _group(window: Window, label: bytes) -> str:
    (header,) = struct.unpack_from("<I", label, 20)
    at = _after_list(label, header + 40)  # past UUID and size: data areas, then metadata areas
    if at + 16 > len(label):
        raise VolumeDamagedError(problem="the LVM2 label makes no sense")
    offset, size = struct.unpack_from("<QQ", label, at)
    if not offset or not size:
        return ""
    area = window.read(offset, _SECTOR)
    if area[4:20] != _AREA_MAGIC:
        raise VolumeDamagedError(problem="no LVM2 metadata area")
    text_at, text_size = struct.unpack_from("<QQ", area, 40)
    if not text_at or not text_size:
        return ""
    text = window.read(offset + text_at, min(text_size, _PEEK, window.size - offset - text_at))
    match = _NAME.match(text)
    return match[1].decode() if match else ""


def _after_list(label: bytes, at: int) -> int:
    """Return where the list of offset and size pairs at `at` ends, past its empty pair."""
    while at + 16 <= len(label):
        offset, _ = struct.unpack_from("<QQ", label, at)
        at += 16
        if not offset:
            return at
    raise VolumeDamagedError(problem="the LVM2 label makes no sense")
