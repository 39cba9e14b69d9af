# SPDX-License-Identifier: GPL-3.0-or-later
"""A read-only loop device over a part of an image file, for tools that know no offset.

The kernel takes it away when its last user closes it, so that not even a killed agent leaves one
behind. Source: linux/loop.h (LOOP_CONFIGURE, Linux 5.8).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONTROL = "/dev/loop-control"
_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
_CONFIG = struct.Struct("=II QQQQQ IIII 64s64s32s QQ 64x")
_ATTEMPTS = 16  # another process may take the free device first


@contextmanager
def read_only_loop(path: Path, offset: int, size: int) -> Iterator[Path]:
    """Give a loop device over `size` bytes from `offset` of `path`, for the block's duration.

    Raises:
        OSError: the kernel refuses (no privilege, no loop device, `offset` not of whole sectors).
    """
    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        name = os.fsencode(path)[:63]
        config = _CONFIG.pack(
            *(backing, 0, 0, 0, 0, offset, size, 0, 0, 0, _READ_ONLY | _AUTOCLEAR),
            *(name, b"", b"", 0, 0),
        )
        node, fd = _attach(config)
    finally:
        os.close(backing)
    try:
        yield node
    finally:
        os.close(fd)


def _attach(config: bytes) -> tuple[Path, int]:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            node = Path(f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}")
            fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return node, fd
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")
