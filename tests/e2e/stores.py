# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems for a converter's images that are small, and get full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.running import tool
from tests.e2e.sources import attached, mounted


def take_room(file: Path, but: int) -> None:
    """Let `file` take all the room that there is but so many bytes."""
    found = os.statvfs(file.parent)
    tool("fallocate", "-l", str(found.f_bavail * found.f_bsize - but), file)


@contextmanager
def small_store(room: Path, size: int) -> Iterator[Path]:
    image = room / "small.img"
    image.write_bytes(b"")
    os.truncate(image, size)
    tool("mkfs.ext4", "-q", "-m", "0", image)
    with attached(image, 512) as loop, mounted(loop, "ext4", room / "small", ro=False) as point:
        yield point
