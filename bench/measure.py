# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command to its end and says what it cost, by the kernel's own accounting."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, CPU seconds, and bytes; all processes of a run together."""

    wall_s: float
    cpu_s: float
    peak: int = 0
    """The largest process."""
    peak_other: int = 0
    """The converter, where there is one."""
    wire: int = 0


def run(argv: Sequence[str], **more: object) -> tuple[Cost, str]:
    """Run `argv`; return what it and its children cost, and its output.

    Raises:
        RuntimeError: it failed; the text is what it said.
    """
    before = _children()
    start = time.monotonic()
    process = subprocess.Popen(  # type: ignore[call-overload]
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )
    out, err = process.communicate()
    wall = time.monotonic() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}: {err[-2000:]}")
    return Cost(wall, _children() - before), out


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a running process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def peak_of(pid: int) -> int:
    """Return a running process's peak resident set in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak(pid: int) -> None:
    """Forget a process's peak so far (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def in_turn(runs: int, *ways: Callable[[], Cost]) -> list[list[Cost]]:
    """Run the ways in turn, A B A B ..., so that a machine whose speed drifts is fair to all."""
    costs: list[list[Cost]] = [[] for _ in ways]
    for _ in range(runs):
        for way, seen in zip(ways, costs, strict=True):
            seen.append(way())
    return costs


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def ratio(ours: Sequence[Cost], theirs: Sequence[Cost]) -> float:
    """Return the median of our seconds over theirs, pair by pair."""
    return median([a.wall_s / b.wall_s for a, b in zip(ours, theirs, strict=True)])
