# SPDX-License-Identifier: GPL-3.0-or-later
"""Which reader knows which content."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from agent.inventory.volume import btrfs, ext, fat, lvm, ntfs, xfs
from agent.inventory.volume.window import State, VolumeDamagedError, Window, open_window

_READERS: dict[str, Callable[[Window], State]] = {
    "ext2": ext.read,
    "ext3": ext.read,
    "ext4": ext.read,
    "xfs": xfs.read,
    "btrfs": btrfs.read,
    "vfat": fat.read,
    "exfat": fat.read_exfat,
    "ntfs": ntfs.read,
    "LVM2_member": lvm.read,
}


def volume_state(path: Path, offset: int, size: int, content: str) -> State | None:
    """Return what the volume of kind `content` says of itself, None where no reader knows it.

    Raises:
        VolumeDamagedError: its structures make no sense, or cannot be read.
    """
    reader = _READERS.get(content)
    if reader is None:
        return None
    try:
        with open_window(path, offset, size) as window:
            return reader(window)
    except (struct.error, IndexError) as error:  # a structure that ends early
        raise VolumeDamagedError(problem=f"a field is cut off ({error})") from error
    except OSError as error:
        raise VolumeDamagedError(problem=error.strerror or "it cannot be opened") from error
