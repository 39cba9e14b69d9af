# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a copy will take, by what the disks and the way to the converter were seen to do."""

from __future__ import annotations

import errno
import json
import mmap
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent import tools
from p2v.model.errors import P2VError
from p2v.model.plan import Plan
from p2v.model.units import MiB

SAMPLE_S = 0.4
"""How long a disk is read to see how fast it is."""
_BLOCK = 4 * MiB
_RUN = 4
"""Blocks in a row: a copy reads on, it does not jump about."""
_PLACES = 16
_LINK_SHARE = 0.9
"""What TCP and TLS leave of a link's rate."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured, in bytes a second: each disk's reading, and the link's rate or None."""

    disks: Mapping[str, float]
    link: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds for a copy, and at which rate; `by` says in words what sets it."""

    seconds: float
    rate: float
    by: str


def read_rate(path: str, size: int, seconds: float = SAMPLE_S) -> float | None:
    """Return the bytes a second at which a disk is read in runs across it, None if it can't be."""
    with suppress(OSError, ValueError), mmap.mmap(-1, _BLOCK) as buffer:
        fd = _open(path)
        try:
            return _read(fd, size, buffer, seconds)
        finally:
            os.close(fd)
    return None


def _open(path: str) -> int:
    """Open past the page cache, where the file system can."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _read(fd: int, size: int, buffer: mmap.mmap, seconds: float) -> float | None:
    begun, done = time.monotonic(), 0
    for place in range(_PLACES):
        at = size * place // _PLACES // _BLOCK * _BLOCK
        for block in range(_RUN):
            if at + (block + 1) * _BLOCK > size:
                break
            done += os.preadv(fd, [buffer], at + block * _BLOCK)
            if time.monotonic() - begun > seconds:
                return done / (time.monotonic() - begun)
    return done / max(time.monotonic() - begun, 1e-6) if done else None


def link_rate(host: str, sys: Path = Path("/sys")) -> float | None:
    """Return the bytes a second of the link by which `host` is reached, None if nobody knows."""
    with suppress(P2VError, OSError, ValueError, LookupError, TypeError):
        route = json.loads(tools.run(["ip", "-j", "route", "get", host], timeout_s=5))[0]
        megabits = int((sys / "class/net" / route["dev"] / "speed").read_text())
        return megabits * 1e6 / 8 * _LINK_SHARE if megabits > 0 else None
    return None


def to_read(plan: Plan) -> dict[str, int]:
    """Return about how many bytes are read of each disk, by what file systems say they use."""
    return {disk.name: disk.used if disk.partitions else disk.size for disk in plan.disks}


def estimate(todo: Mapping[str, int], speeds: Speeds) -> Estimate | None:
    """Return how long it takes to read `todo` bytes of each disk, one after another, and send them.

    None where no disk was measured. A disk that was not is taken to be like the others.
    """
    known = [rate for name, rate in speeds.disks.items() if name in todo and rate > 0]
    if not known:
        return None
    usual = sum(known) / len(known)
    total = sum(todo.values())
    reading = sum(size / (speeds.disks.get(name) or usual) for name, size in todo.items())
    sending = total / speeds.link if speeds.link else 0.0
    seconds = max(reading, sending)
    by = "the network link" if sending > reading else "reading"
    return Estimate(seconds, total / seconds if seconds else usual, by)
