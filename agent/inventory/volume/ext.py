# SPDX-License-Identifier: GPL-3.0-or-later
"""ext2, ext3 and ext4: the superblock.

Source: https://docs.kernel.org/filesystems/ext4/super.html
"""

from __future__ import annotations

import struct

from agent.inventory.volume.window import State, VolumeDamagedError, Window

_SUPERBLOCK = 1024
_MAGIC = 0xEF53
_VALID = 0x1
_ERRORS = 0x2
_INCOMPAT_RECOVER = 0x4
_INCOMPAT_64BIT = 0x80


def read(window: Window) -> State:
    """Return used space and cleanliness.

    Raises:
        VolumeDamagedError: there is no superblock.
    """
    block = window.read(_SUPERBLOCK, 1024)
    magic, state = struct.unpack_from("<HH", block, 0x38)
    if magic != _MAGIC:
        raise VolumeDamagedError(problem="no ext superblock")
    blocks, _, free = struct.unpack_from("<III", block, 4)
    (log_size,) = struct.unpack_from("<I", block, 0x18)
    (incompat,) = struct.unpack_from("<I", block, 0x60)
    if incompat & _INCOMPAT_64BIT:
        blocks |= struct.unpack_from("<I", block, 0x150)[0] << 32
        free |= struct.unpack_from("<I", block, 0x158)[0] << 32
    if log_size > 6 or not 0 <= free <= blocks:
        raise VolumeDamagedError(problem="its block counts make no sense")
    shift = 10 + log_size
    return State(
        used=(blocks - free) << shift,
        size=blocks << shift,
        unclean=_unclean(state, incompat),
        damaged=bool(state & _ERRORS),
    )


def _unclean(state: int, incompat: int) -> str:
    """The journal comes first: with it pending, state still says "clean"."""
    if incompat & _INCOMPAT_RECOVER:
        return "its journal has not been replayed (needs_recovery)"
    if state & _ERRORS:
        return "it is marked as having errors"
    if not state & _VALID:
        return "it was not unmounted cleanly"
    return ""
