# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine is doing: counters of /proc, read twice.

Sources: proc(5); Documentation/admin-guide/iostats.rst (a sector there is 512 bytes on any disk).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from agent.inventory.memory import meminfo, used_memory
from p2v.model.machine import DiskLoad, Load, NicLoad

_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at one moment.

    CPU ticks busy and in all; per disk: reads, sectors read, writes, sectors written; per
    interface: bytes received, bytes sent.
    """

    at_s: float
    busy: int
    total: int
    disks: dict[str, tuple[int, int, int, int]]
    nics: dict[str, tuple[int, int]]


def measure_load(window_s: float, disks: tuple[str, ...], nics: tuple[str, ...]) -> Load:
    """Watch for `window_s` seconds and return the load of the machine and of the named devices.

    Raises:
        OSError: a file of /proc cannot be read.
    """
    before = take_sample()
    time.sleep(window_s)
    after = take_sample()
    return load_between(before, after, used_memory(meminfo()), disks, nics)


def take_sample(proc: Path = Path("/proc")) -> Sample:
    """Read the counters."""
    ticks = [int(word) for word in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return Sample(
        at_s=time.monotonic(),
        busy=sum(ticks) - idle,
        total=sum(ticks),
        disks=_diskstats((proc / "diskstats").read_text()),
        nics=_netdev((proc / "net/dev").read_text()),
    )


def _diskstats(text: str) -> dict[str, tuple[int, int, int, int]]:
    rows = (line.split() for line in text.splitlines())
    return {r[2]: (int(r[3]), int(r[5]), int(r[7]), int(r[9])) for r in rows if len(r) >= 14}


def _netdev(text: str) -> dict[str, tuple[int, int]]:
    nics: dict[str, tuple[int, int]] = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        counters = rest.split()
        nics[name.strip()] = int(counters[0]), int(counters[8])
    return nics


def load_between(
    before: Sample, after: Sample, memory: int, disks: tuple[str, ...], nics: tuple[str, ...]
) -> Load:
    """Return the load between two samples; devices that are not in both are left out."""
    window = max(after.at_s - before.at_s, 1e-3)
    ticks = after.total - before.total
    return Load(
        window_s=round(window, 3),
        cpu_percent=round(100 * (after.busy - before.busy) / ticks, 1) if ticks > 0 else 0.0,
        memory_used=memory,
        disks=tuple(
            _disk_load(name, before.disks[name], after.disks[name], window)
            for name in disks
            if name in before.disks and name in after.disks
        ),
        nics=tuple(
            NicLoad(name, *_rates(before.nics[name], after.nics[name], window))
            for name in nics
            if name in before.nics and name in after.nics
        ),
    )


def _disk_load(
    name: str, before: tuple[int, ...], after: tuple[int, ...], window_s: float
) -> DiskLoad:
    reads, sectors_read, writes, sectors_written = _rates(before, after, window_s)
    return DiskLoad(name, reads, writes, sectors_read * _SECTOR, sectors_written * _SECTOR)


def _rates(before: tuple[int, ...], after: tuple[int, ...], window_s: float) -> list[float]:
    """Counters may wrap or start again; a negative rate would be nonsense."""
    return [round(max(0, b - a) / window_s, 1) for a, b in zip(before, after, strict=True)]
