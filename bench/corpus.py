# SPDX-License-Identifier: GPL-3.0-or-later
"""The source disks: real ones where it matters, all kept in the cache folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2v.model.units import GiB, MiB, TiB

CACHE = Path(os.environ.get("P2V_CACHE", ".cache")).absolute()


@dataclass(frozen=True)
class Disk:
    """A source: an image file, and the number of the partition that partclone can copy, or 0."""

    name: str
    path: Path
    partition: int = 0


def linux_disk() -> Disk:
    """Return a Debian 12 server's disk: 6 GiB, about 1 GiB of it in use."""
    path = CACHE / "web01.img"
    subprocess.run(["demo/debian-disk.sh", str(path)], check=True)
    return Disk("Linux server, 6 GiB, 1 GiB used", path, partition=3)


def random_disk() -> Disk:
    """Return a disk of 2 GiB that no codec can shorten."""
    path = CACHE / "random.img"
    if not path.exists():
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            for _ in range(2 * GiB // (4 * MiB)):
                file.write(os.urandom(4 * MiB))
        fresh.rename(path)
    return Disk("incompressible, 2 GiB", path)


def empty_disk() -> Disk:
    """Return a disk of 8 TiB with an xfs that holds next to nothing."""
    path = CACHE / "empty.img"
    if not path.exists():
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.truncate(8 * TiB)
        subprocess.run(["mkfs.xfs", "-q", "-f", str(fresh)], check=True)
        fresh.rename(path)
    return Disk("empty xfs, 8 TiB", path)


@contextmanager
def attached(disk: Disk) -> Iterator[str]:
    """Give the disk as a read-only loop device with its partitions."""
    argv = ["losetup", "--show", "-f", "-r", "--direct-io=on", str(disk.path)]
    loop = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["partx", "-a", loop], check=False, capture_output=True)
    try:
        yield loop
    finally:
        subprocess.run(["partx", "-d", loop], check=False, capture_output=True)
        subprocess.run(["losetup", "-d", loop], check=True)
