# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks by programs on classic tracepoints, for kernels without types: Linux 4.9 and later.

A mark is the number of the current generation, a byte. Collecting starts the next generation,
waits until no program can still be using the old one, and then reads the old one's marks; nothing
is ever cleared, so nothing can be lost in clearing. A mark that is overwritten by the next
generation before it is read is found with that one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from agent.capture.audit import audit
from agent.capture.classic_program import (
    BEYOND,
    COUNTS,
    LEVEL_SHIFT,
    LEVELS,
    UNPLACED,
    Layout,
    Region,
    build,
    units,
)
from agent.capture.leaves import SYSFS, Leaf
from agent.capture.marks import Alarm, granule_for
from agent.capture.tracepoint import read_tracepoint, tracefs
from native._tracker import (
    MAP_PAGE,
    ArrayMap,
    attach_tracepoint,
    load_program,
    settle,
    skipped,
)
from p2v.model.units import MiB

_BUDGET = 32 * MiB
_GENERATIONS = 255  # after so many a mark may be found once more: harmless
_ALIGN = 1 << LEVEL_SHIFT * (LEVELS - 1)  # so that the units of no two disks overlap
_SECTOR = 512
_COUNT = struct.Struct("=Q")
_EVENTS = ("block/block_rq_complete", "block/block_rq_issue")  # completions first, as in load.c


class ClassicMarks:
    """Marks by programs that the kernel may skip: while another program runs on the same CPU.

    Linux 6.7 and later count that; elsewhere the kernel's account of the disk shows it.

    Raises:
        OSError: the kernel refuses the programs, or to wait for them.
        ToolError: tracefs cannot be mounted.
        ValueError: the tracepoints are not as expected.
    """

    def __init__(
        self, leaves: Sequence[Leaf], *, sysfs: Path = SYSFS, events: Sequence[str] = _EVENTS
    ) -> None:
        self.granule = granule_for([leaf.size for leaf in leaves], _BUDGET)
        self._regions = _regions(leaves, self.granule)
        self._levels, total = units(self._regions[-1].base + self._regions[-1].granules)
        self._generation = 1
        with ExitStack() as opened:
            self._pages = ArrayMap("p2v_marks", MAP_PAGE, -(-total // MAP_PAGE))
            opened.callback(self._pages.close)
            self._counts = ArrayMap("p2v_counts", _COUNT.size, COUNTS * len(leaves))
            opened.callback(self._counts.close)
            self._state = ArrayMap("p2v_state", _COUNT.size, 1)
            opened.callback(self._state.close)
            self._begin(self._generation)
            settle()
            self._programs = self._attach(events, opened)
            self._audits = [
                audit(leaf, partial(self._count, COUNTS * at), sysfs)
                for at, leaf in enumerate(leaves)
            ]
            self._opened = opened.pop_all()

    def collect(self, into: Sequence[bytearray]) -> None:
        """Move all marks into one bitmap a leaf."""
        ended = self._generation
        self._generation = ended % _GENERATIONS + 1
        self._begin(self._generation)
        settle()
        for region, bits in zip(self._regions, into, strict=True):
            for level, begin in enumerate(self._levels):
                shift = LEVEL_SHIFT * level
                first = begin + (region.base >> shift)
                self._pages.take(first, region.granules, shift, ended, bits)

    def peek(self, leaf: int, first: int, count: int) -> bytearray:
        """Return a bitmap of `count` granules from `first` on."""
        found = bytearray(-(-count // 8))
        start = self._regions[leaf].base + first
        for level, begin in enumerate(self._levels):
            shift = LEVEL_SHIFT * level
            unit, last = start >> shift, start + count - 1 >> shift
            granules = (last - unit + 1) << shift
            bits = bytearray(-(-granules // 8))
            self._pages.take(begin + unit, granules, shift, self._generation, bits)
            ahead = start - (unit << shift)
            for n in range(count):
                if bits[ahead + n >> 3] >> (ahead + n & 7) & 1:
                    found[n >> 3] |= 1 << (n & 7)
        return found

    def alarms(self, leaf: int) -> Mapping[Alarm, int]:
        """Return how often each alarm concerned the leaf."""
        account = self._audits[leaf]
        return {
            Alarm.BEYOND: self._count(COUNTS * leaf + BEYOND),
            Alarm.UNPLACED: self._count(COUNTS * leaf + UNPLACED),
            Alarm.SKIPPED: sum(skipped(program) for program in self._programs),
            Alarm.UNACCOUNTED: account.missed() if account else 0,
        }

    def close(self) -> None:
        """Stop marking."""
        self._opened.close()

    def _begin(self, generation: int) -> None:
        self._state[0] = _COUNT.pack(generation)

    def _count(self, index: int) -> int:
        (found,) = _COUNT.unpack(self._counts[index])
        return int(found)

    def _attach(self, events: Sequence[str], opened: ExitStack) -> list[int]:
        layout = Layout(
            pages=self._pages.fileno(),
            counts=self._counts.fileno(),
            state=self._state.fileno(),
            levels=self._levels,
            shift=(self.granule // _SECTOR).bit_length() - 1,
            regions=self._regions,
        )
        programs = []
        with tracefs() as folder:
            for event in events:
                point = read_tracepoint(folder, event)
                name = event.rpartition("_")[2]
                code = build(point, layout, completes=name == "complete")
                program = load_program(f"p2v_{name}", code)
                opened.callback(os.close, program)
                opened.callback(os.close, attach_tracepoint(program, point.identifier, _cpu()))
                programs.append(program)
        return programs


def _regions(leaves: Sequence[Leaf], granule: int) -> tuple[Region, ...]:
    found = []
    base = 0
    for leaf in leaves:
        major, minor = leaf.number
        granules = -(-leaf.size // granule)
        found.append(Region(major << 20 | minor, base, granules, leaf.scatters))
        base += -(-granules // _ALIGN) * _ALIGN
    return tuple(found)


def _cpu() -> int:
    """A CPU that is online: the first of a list such as ``1-3,5``."""
    listed = Path("/sys/devices/system/cpu/online").read_text().strip()
    return int(listed.partition(",")[0].partition("-")[0])
