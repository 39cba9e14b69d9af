# SPDX-License-Identifier: GPL-3.0-or-later
"""XFS: the superblock, and whether the log is clean.

The log is clean when its newest record is the one that unmounting writes. The newest is found by
reading the log once from end to end (64 MiB as a rule, at most 2 GiB): every record's header says
at which cycle and block it was written.

Source: XFS Algorithms & Data Structures, "Superblocks" and "Journaling Log"
(https://mirrors.edge.kernel.org/pub/linux/utils/fs/xfs/docs/xfs_filesystem_structure.pdf)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.inventory.volume.window import State, VolumeDamagedError, Window
from p2v.model.units import GiB, KiB, MiB

_MAGIC = b"XFSB"
_RECORD_MAGIC = b"\xfe\xed\xba\xbe"
_BASIC = 512
_HEADER_DATA = 32 * KiB  # bytes of record that one header block describes
_UNMOUNT = 0x20  # xlog_op_header.oh_flags
_MAX_LOG = 2 * GiB + 64 * KiB
_STEP = 4 * MiB
_IN_PROGRESS = "it is being made or grown"


@dataclass(frozen=True, slots=True)
class _Super:
    block: int
    blocks: int
    free: int
    log_start: int
    log_blocks: int
    ag_blocks: int
    ag_shift: int
    in_progress: bool


def read(window: Window) -> State:
    """Return used space and cleanliness.

    Raises:
        VolumeDamagedError: superblock or log make no sense.
    """
    sb = _superblock(window.read(0, _BASIC))
    unclean = _IN_PROGRESS if sb.in_progress else _unclean(window, sb)
    used = (sb.blocks - sb.free) * sb.block
    return State(used=used, size=sb.blocks * sb.block, unclean=unclean)


def _superblock(raw: bytes) -> _Super:
    if raw[:4] != _MAGIC:
        raise VolumeDamagedError(problem="no XFS superblock")
    block, blocks = struct.unpack_from(">IQ", raw, 4)
    (log_start,) = struct.unpack_from(">Q", raw, 48)
    (ag_blocks,) = struct.unpack_from(">I", raw, 84)
    (log_blocks,) = struct.unpack_from(">I", raw, 96)
    (free,) = struct.unpack_from(">Q", raw, 144)
    sb = _Super(block, blocks, free, log_start, log_blocks, ag_blocks, raw[124], bool(raw[126]))
    sane = (
        block in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
        and free <= blocks
        and 0 < ag_blocks <= 1 << sb.ag_shift <= 1 << 31
        and 0 < log_blocks * block <= _MAX_LOG
    )
    if not sane:
        raise VolumeDamagedError(problem="the XFS superblock makes no sense")
    return sb


def _unclean(window: Window, sb: _Super) -> str:
    if not sb.log_start:
        return "its log is on another device"
    group, rest = divmod(sb.log_start, 1 << sb.ag_shift)
    start = (group * sb.ag_blocks + rest) * sb.block
    log = Window(window.fd, window.offset + start, sb.log_blocks * sb.block)
    if start + log.size > window.size:
        raise VolumeDamagedError(problem="the XFS log is outside the volume")
    newest = max(_records(log), default=None)
    if newest is None:
        raise VolumeDamagedError(problem="the XFS log holds no record")
    if _is_unmount(log, newest[1]):
        return ""
    return "its log has not been replayed"


def _records(log: Window) -> Iterator[tuple[int, int]]:
    """Yield cycle and basic block of every record header that says it is where it is."""
    for at in range(0, log.size, _STEP):
        piece = log.read(at, min(_STEP, log.size - at))
        found = piece.find(_RECORD_MAGIC)
        while found >= 0:
            if found % _BASIC == 0 and found + _BASIC <= len(piece):
                cycle, lsn_cycle, lsn_block = _position(piece, found)
                if cycle == lsn_cycle and lsn_block * _BASIC == at + found:
                    yield cycle, lsn_block
            found = piece.find(_RECORD_MAGIC, found + 1)


def _position(piece: bytes, at: int) -> tuple[int, int, int]:
    (cycle,) = struct.unpack_from(">I", piece, at + 4)
    lsn_cycle, lsn_block = struct.unpack_from(">II", piece, at + 16)
    return cycle, lsn_cycle, lsn_block


def _is_unmount(log: Window, block: int) -> bool:
    header = log.read(block * _BASIC, _BASIC)
    version, _ = struct.unpack_from(">II", header, 8)
    (operations,) = struct.unpack_from(">I", header, 40)
    (size,) = struct.unpack_from(">I", header, 320)
    headers = -(-size // _HEADER_DATA) if version & 2 and size > _HEADER_DATA else 1
    if operations != 1 or headers > 8:
        return False
    data = (block + headers) * _BASIC % log.size  # a record may wrap around the log's end
    return bool(log.read(data, 12)[9] & _UNMOUNT)
