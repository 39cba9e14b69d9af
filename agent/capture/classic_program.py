# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracker's program for classic tracepoints, put together by hand: no compiler, no types.

Written for the verifier of Linux 4.9: no loops, no atomic but addition, one return value. What a
request covers is marked at the finest of four levels where it spans at most 17 units, a unit being
16 times that of the level before. Source: Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from agent.capture.tracepoint import Tracepoint
from native._tracker import MAP_PAGE

COUNTS = 3
"""Counters a disk: sectors completed, ranges beyond its end, discards of ranges unknown."""
COMPLETED, BEYOND, UNPLACED = range(COUNTS)
LEVELS = 4
LEVEL_SHIFT = 4
MAX_STEPS = 1 << LEVEL_SHIFT
"""The most by which the last unit of a range may lie behind its first. At the top level it always
does: units of at least 16 x 16 x 16 x 64 KiB, against the 4 GiB of the longest request."""

_INSTRUCTION = struct.Struct("<BBhi")
_PAGE_SHIFT = MAP_PAGE.bit_length() - 1
_LOOKUP = 1
_MAP_FD = 1

_CONTEXT = 6
_STACK = 10
_WORD, _BYTE, _DOUBLE = 0x00, 0x10, 0x18
_LOAD, _STORE_IMMEDIATE, _STORE, _ADD_ATOMIC = 0x61, 0x62, 0x63, 0xDB
_ADD, _SUB, _AND, _LSH, _RSH, _MOV = 0x07, 0x17, 0x57, 0x67, 0x77, 0xB7
_MOV32 = 0xB4
_ALWAYS, _EQUAL, _GREATER, _UNEQUAL = 0x05, 0x15, 0x25, 0x55
_REGISTER = 0x08


@dataclass(frozen=True, slots=True)
class Region:
    """Where the marks of a disk are: granules `base` to `base + granules` of the map.

    `device` is the kernel's own device number, `major << 20 | minor`. Where the disk `scatters`,
    the tracepoint names but one of the ranges of a discard.
    """

    device: int
    base: int
    granules: int
    scatters: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Descriptors of the maps, and what is where in them.

    `pages` holds a byte a unit, level after level from `levels` on; `counts` the `COUNTS` of each
    disk; `state` the generation that marks are made with.
    `shift` leads from sectors to granules.
    """

    pages: int
    counts: int
    state: int
    levels: tuple[int, ...]
    shift: int
    regions: tuple[Region, ...]


class _Assembler:
    """Instructions with labels; jumps are resolved at the end."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int]] = []
        self._jumps: dict[int, str] = {}
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def emit(
        self, code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0
    ) -> None:
        self._code.append((code, to, source, offset, value))

    def load(self, size: int, to: int, source: int, offset: int = 0) -> None:
        self.emit(_LOAD | size, to, source, offset)

    def do(self, operation: int, to: int, value: int) -> None:
        self.emit(operation, to, value=value)

    def do_register(self, operation: int, to: int, source: int) -> None:
        self.emit(operation | _REGISTER, to, source)

    def constant(self, to: int, value: int) -> None:
        """Put up to 64 bits into a register; takes two places."""
        low, high = struct.unpack("<ii", struct.pack("<Q", value))
        self.emit(0x18, to, value=low)
        self.emit(0, value=high)

    def jump(self, label: str, when: int = _ALWAYS, left: int = 0, value: int = 0) -> None:
        self._jumps[len(self._code)] = label
        self.emit(when, left, value=value)

    def jump_register(self, label: str, when: int, left: int, right: int) -> None:
        self._jumps[len(self._code)] = label
        self.emit(when | _REGISTER, left, right)

    def look_up(self, fd: int, missing: str) -> None:
        """Look up the entry whose index is on the stack; its address is in register 0."""
        self.emit(0x18, 1, _MAP_FD, value=fd)
        self.emit(0)
        self.do_register(_MOV, 2, _STACK)
        self.do(_ADD, 2, -4)
        self.emit(0x85, value=_LOOKUP)
        self.jump(missing, _EQUAL, 0, 0)

    def index(self, value: int) -> None:
        """Put a constant index on the stack."""
        self.emit(_STORE_IMMEDIATE | _WORD, _STACK, offset=-4, value=value)

    def assemble(self) -> bytes:
        parts = []
        for at, (code, to, source, offset, value) in enumerate(self._code):
            if at in self._jumps:
                offset = self._labels[self._jumps[at]] - at - 1
            parts.append(_INSTRUCTION.pack(code, source << 4 | to, offset, value))
        return b"".join(parts)


def build(point: Tracepoint, layout: Layout, *, completes: bool) -> bytes:
    """Return the program for a tracepoint; the one that `completes` also counts sectors."""
    code = _Assembler()
    code.do_register(_MOV, _CONTEXT, 1)
    # What is not a plain read may change data: W, D (discard, secure erase), N and Z (others).
    code.load(_BYTE, 1, _CONTEXT, point.offset("rwbs", 1))
    code.jump("out", _EQUAL, 1, ord("R"))
    code.load(_WORD, 7, _CONTEXT, point.offset("nr_sector", 4))
    code.jump("out", _EQUAL, 7, 0)  # a flush
    code.load(_DOUBLE, 8, _CONTEXT, point.offset("sector", 8))
    code.load(_WORD, 1, _CONTEXT, point.offset("dev", 4))
    for number, region in enumerate(layout.regions):
        code.do(_MOV32, 2, struct.unpack("<i", struct.pack("<I", region.device))[0])
        code.jump_register(f"disk {number}", _EQUAL, 1, 2)
    code.jump("out")
    for number in range(len(layout.regions)):
        code.label(f"disk {number}")
        _place(code, layout, number, point.offset("rwbs", 1), completes=completes)
    code.label("levels")
    _choose_level(code, layout)
    _mark(code, layout)
    code.label("out")
    code.do(_MOV, 0, 0)
    code.emit(0x95)
    return code.assemble()


def _place(code: _Assembler, layout: Layout, number: int, rwbs: int, *, completes: bool) -> None:
    """Turn the sectors from register 8 on, 7 of them, into granules 8 to 9 of the map."""
    region = layout.regions[number]
    if completes:
        code.index(COUNTS * number + COMPLETED)
        code.look_up(layout.counts, "out")
        code.emit(_ADD_ATOMIC, 0, 7)
    if region.scatters:
        code.load(_BYTE, 1, _CONTEXT, rwbs)
        code.jump(f"alone {number}", _UNEQUAL, 1, ord("D"))
        _count(code, layout, COUNTS * number + UNPLACED)
        code.label(f"alone {number}")
    code.do_register(_MOV, 9, 8)
    code.do_register(_ADD, 9, 7)
    code.do(_SUB, 9, 1)
    code.do(_RSH, 8, layout.shift)
    code.do(_RSH, 9, layout.shift)
    code.constant(6, region.granules - 1)
    code.jump_register(f"beyond {number}", _GREATER, 9, 6)
    code.label(f"inside {number}")
    code.constant(1, region.base)
    code.do_register(_ADD, 8, 1)
    code.do_register(_ADD, 9, 1)
    code.jump("levels")
    code.label(f"beyond {number}")
    _count(code, layout, COUNTS * number + BEYOND)
    code.do_register(_MOV, 9, 6)
    code.jump_register("out", _GREATER, 8, 6)
    code.jump(f"inside {number}")


def _count(code: _Assembler, layout: Layout, index: int) -> None:
    code.index(index)
    code.look_up(layout.counts, "out")
    code.do(_MOV, 1, 1)
    code.emit(_ADD_ATOMIC, 0, 1)


def _choose_level(code: _Assembler, layout: Layout) -> None:
    """Turn granules 8 to 9 into units of the level where they are few; 6 is where it begins."""
    code.index(0)
    code.look_up(layout.state, "out")
    code.load(_BYTE, 7, 0)
    for level, begin in enumerate(layout.levels):
        if level:
            code.do(_RSH, 8, LEVEL_SHIFT)
            code.do(_RSH, 9, LEVEL_SHIFT)
        code.constant(6, begin)
        code.do_register(_MOV, 1, 9)
        code.do_register(_SUB, 1, 8)
        if level < len(layout.levels) - 1:
            code.jump(f"above {level}", _GREATER, 1, MAX_STEPS)
            code.jump("mark")
            code.label(f"above {level}")
    code.label("mark")
    code.do_register(_ADD, 8, 6)
    code.do_register(_ADD, 9, 6)


def _mark(code: _Assembler, layout: Layout) -> None:
    """Write register 7 to units 8 to 9."""
    for _ in range(MAX_STEPS + 1):
        code.do_register(_MOV, 1, 8)
        code.do(_RSH, 1, _PAGE_SHIFT)
        code.emit(_STORE | _WORD, _STACK, 1, -4)
        code.look_up(layout.pages, "out")
        code.do_register(_MOV, 1, 8)
        code.do(_AND, 1, MAP_PAGE - 1)
        code.do_register(_ADD, 0, 1)
        code.emit(_STORE | _BYTE, 0, 7)
        code.jump_register("out", _EQUAL, 8, 9)
        code.do(_ADD, 8, 1)


def units(granules: int) -> tuple[tuple[int, ...], int]:
    """Return where each level of `granules` begins in a map, and how many units there are."""
    begins = [0]
    for level in range(LEVELS):
        begins.append(begins[-1] + -(-granules // (1 << LEVEL_SHIFT * level)))
    return tuple(begins[:-1]), begins[-1]
