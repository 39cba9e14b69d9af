# SPDX-License-Identifier: GPL-3.0-or-later
"""btrfs: the superblock.

Source: https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html
"""

from __future__ import annotations

import struct

from agent.inventory.volume.window import State, VolumeDamagedError, Window
from p2v.model.units import KiB

_SUPERBLOCK = 64 * KiB
_MAGIC = b"_BHRfS_M"


def read(window: Window) -> State:
    """Return used space, cleanliness and whether several devices make up the file system.

    Raises:
        VolumeDamagedError: there is no superblock.
    """
    block = window.read(_SUPERBLOCK, 4096)
    if block[0x40:0x48] != _MAGIC:
        raise VolumeDamagedError(problem="no btrfs superblock")
    log_root, _, total, used = struct.unpack_from("<QQQQ", block, 0x60)
    (devices,) = struct.unpack_from("<Q", block, 0x88)
    if used > total:
        raise VolumeDamagedError(problem="its byte counts make no sense")
    shared = devices != 1
    return State(
        used=None if shared else used,
        unclean="its log tree has not been replayed" if log_root else "",
        group=_uuid(block[0x20:0x30]) if shared else "",
        shared=shared,
    )


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
