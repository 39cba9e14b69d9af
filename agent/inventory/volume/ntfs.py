# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS: used space, the dirty flag, the log, and Windows' hibernation file.

A volume whose map may be trusted has no dirty flag in $Volume, a $LogFile that was closed, and no
hiberfil.sys with a suspended Windows in it (Fast Startup leaves one at every "shut down").
Sources: https://flatcap.github.io/linux-ntfs/ntfs/ ($Volume, $LogFile, $Bitmap, directories)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from agent.inventory.volume.mft import DATA, Attribute, Ntfs, find, open_ntfs, unprotect
from agent.inventory.volume.window import State, VolumeDamagedError, Window
from p2v.model.units import GiB, KiB, MiB

_LOGFILE, _VOLUME, _ROOT, _BITMAP = 2, 3, 5, 6
_VOLUME_INFORMATION, _INDEX_ROOT, _INDEX_ALLOCATION = 0x70, 0x90, 0xA0
_DIRTY = 0x1
_CLEAN = 0x2
_NO_CLIENT = 0xFFFF
_LAST_ENTRY = 0x2
_STEP = 4 * MiB
_MAX_BITMAP = GiB  # 32 TiB in clusters of 4 KiB; reading it takes a second or so
_MAX_DIRECTORY = 64 * MiB
_HIBERNATED = (b"hibr", b"HIBR", b"RSTR", b"rstr")


def read(window: Window) -> State:
    """Return used space, cleanliness and hibernation.

    Raises:
        VolumeDamagedError: one of the structures makes no sense.
    """
    volume = open_ntfs(window)
    hibernated = _hibernated(volume)
    return State(
        used=_used(volume),
        unclean=_unclean(volume)
        or ("Windows is hibernated or was shut down with Fast Startup" if hibernated else ""),
        hibernated=hibernated,
    )


def _unclean(volume: Ntfs) -> str:
    information = find(volume.load(_VOLUME), _VOLUME_INFORMATION)
    if information is None or information.resident is None or information.size < 12:
        raise VolumeDamagedError(problem="NTFS has no volume information")
    if struct.unpack_from("<H", information.resident, 10)[0] & _DIRTY:
        return "it is marked dirty: Windows would run chkdsk"
    return "" if _log_closed(volume) else "its log has not been replayed"


def _log_closed(volume: Ntfs) -> bool:
    """An empty log is all ones; else the newer of two restart pages tells."""
    log = find(volume.load(_LOGFILE), DATA)
    if log is None or log.size < 8 * KiB:
        raise VolumeDamagedError(problem="NTFS has no log")
    first = volume.read(log, 0, 4 * KiB)
    if first == b"\xff" * len(first):
        return True
    if first[:4] != b"RSTR":
        return False
    (page,) = struct.unpack_from("<I", first, 16)
    if not 512 <= page <= 64 * KiB or page % 512:
        return False
    pages = [_restart(volume.read(log, at, page)) for at in (0, page)]
    newest = max((p for p in pages if p is not None), default=None)
    return newest is not None and newest[1]


def _restart(raw: bytes) -> tuple[int, bool] | None:
    """Return a restart page's sequence number, and whether it says that the log is closed."""
    try:
        page = unprotect(raw, b"RSTR")
    except VolumeDamagedError:
        return None
    (at,) = struct.unpack_from("<H", page, 24)
    if at + 16 > len(page):
        return None
    lsn, _, _, in_use, flags = struct.unpack_from("<QHHHH", page, at)
    return lsn, in_use == _NO_CLIENT or bool(flags & _CLEAN)


def _used(volume: Ntfs) -> int | None:
    bitmap = find(volume.load(_BITMAP), DATA)
    if bitmap is None or bitmap.size > _MAX_BITMAP or bitmap.size * 8 < volume.clusters:
        return None
    total = 0
    for at in range(0, bitmap.size, _STEP):
        piece = volume.read(bitmap, at, min(_STEP, bitmap.size - at))
        total += int.from_bytes(piece, "little").bit_count()
    beyond = bitmap.size * 8 - volume.clusters  # bits past the end are set
    return max(0, total - beyond) * volume.cluster


def _hibernated(volume: Ntfs) -> bool:
    number = _hiberfil(volume)
    if number is None:
        return False
    data = find(volume.load(number), DATA)
    if data is None or data.size < 4:
        return False
    return volume.read(data, 0, 4) in _HIBERNATED


def _hiberfil(volume: Ntfs) -> int | None:
    """Return the file record of the root directory's hiberfil.sys, None where there is none."""
    attributes = volume.load(_ROOT)
    for block, at in _index_blocks(volume, attributes):
        for name, number in _entries(block, at):
            if name.lower() == "hiberfil.sys":
                return number
    return None


def _index_blocks(volume: Ntfs, attributes: tuple[Attribute, ...]) -> Iterator[tuple[bytes, int]]:
    """Yield every node of the root directory's index with where its node header is."""
    root = find(attributes, _INDEX_ROOT, "$I30")
    if root is None or root.resident is None or root.size < 32:
        raise VolumeDamagedError(problem="the NTFS root directory has no index")
    yield root.resident, 16
    nodes = find(attributes, _INDEX_ALLOCATION, "$I30")
    if nodes is None:
        return
    if nodes.size > _MAX_DIRECTORY:
        raise VolumeDamagedError(problem="the NTFS root directory is too large")
    for at in range(0, nodes.size - volume.index + 1, volume.index):
        raw = volume.read(nodes, at, volume.index)
        if raw[:4] == b"INDX":  # nodes that were never used hold anything
            yield unprotect(raw, b"INDX"), 24


def _entries(block: bytes, header: int) -> Iterator[tuple[str, int]]:
    """Yield name and file record of each entry of an index node."""
    first, used = struct.unpack_from("<II", block, header)
    at, end = header + first, min(header + used, len(block))
    while at + 16 <= end:
        (reference,) = struct.unpack_from("<Q", block, at)
        length, _, flags = struct.unpack_from("<HHH", block, at + 8)
        if flags & _LAST_ENTRY or length < 16 or at + length > end:
            return
        if length >= 82 and at + 82 + 2 * block[at + 80] <= end:
            raw = block[at + 82 : at + 82 + 2 * block[at + 80]]
            yield raw.decode("utf-16-le", errors="replace"), reference & 0xFFFFFFFFFFFF
        at += length
