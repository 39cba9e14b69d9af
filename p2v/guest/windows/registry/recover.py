# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery: bring a dirty hive to the state that its logs record, as Windows does when it starts.

A system that was copied while it ran, or that crashed, has its latest changes in the logs only, and
hivex throws them away. "Dirty state of a hive" and "Multiple transaction log files" are the rules.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from p2v.guest.windows.registry.base import (
    KTM_LOCKED,
    MAX_HIVE,
    PAGE,
    SECTOR,
    BaseBlock,
    FileType,
    HiveDamagedError,
    distance,
)
from p2v.guest.windows.registry.entries import Entry, Page, entries
from p2v.guest.windows.registry.vector import dirty_pages

_BIN = struct.Struct("<4sII")
_BIN_WRITTEN_AT = PAGE + 20


@dataclass(frozen=True, slots=True)
class Recovered:
    """A clean hive.

    Attributes:
        data: the whole file.
        applied: how many changes came from the logs: entries, or 1 for a log of the old format.
    """

    data: bytes
    applied: int


@dataclass(frozen=True, slots=True)
class _Log:
    """A log whose base block is as it must be."""

    base: BaseBlock
    raw: bytes


def recover(hive: bytes, logs: Sequence[bytes]) -> Recovered:
    """Return a hive with its logs (.LOG1, .LOG2; or .LOG) applied; a clean one as it is.

    Raises:
        HiveDamagedError: it is dirty, and no log fits; or its bins are broken afterwards.
    """
    base = _base(hive)
    if base is not None and not base.dirty:
        check_bins(hive, base.length)
        return Recovered(hive, 0)
    usable = [log for log in map(_log, logs) if log is not None]
    newer = [log for log in usable if log.base.file_type == FileType.LOG_OF_ENTRIES]
    recovered = _by_entries(hive, base, newer) if newer else _by_vector(hive, base, usable)
    check_bins(recovered.data, BaseBlock.parse(recovered.data).length)
    return recovered


def check_bins(hive: bytes, length: int) -> None:
    """Make sure that bins fill the hive without a gap ("Hive bin").

    Raises:
        HiveDamagedError: a bin's header is wrong, or the file ends before the last.
    """
    if length % PAGE or not PAGE <= length <= min(len(hive) - PAGE, MAX_HIVE):
        raise HiveDamagedError(f"it has {len(hive)} bytes, too few for bins of {length}")
    at = 0
    while at < length:
        signature, offset, size = _BIN.unpack_from(hive, PAGE + at)
        if signature != b"hbin" or offset != at or size % PAGE or not 0 < size <= length - at:
            raise HiveDamagedError(f"its bin at {at} is broken")
        at += size


def _base(hive: bytes) -> BaseBlock | None:
    """Return the base block of a hive, None where only a log can restore it."""
    if len(hive) < PAGE:
        raise HiveDamagedError(f"it has only {len(hive)} bytes")
    try:
        base = BaseBlock.parse(hive)
    except HiveDamagedError:
        return None
    return base if base.intact else None


def _log(raw: bytes) -> _Log | None:
    try:
        base = BaseBlock.parse(raw)
    except HiveDamagedError:
        return None
    kinds = (FileType.LOG, FileType.LOG_OF_2000, FileType.LOG_OF_ENTRIES)
    fits = base.length % PAGE == 0 and PAGE <= base.length <= MAX_HIVE
    return None if base.dirty or base.file_type not in kinds or not fits else _Log(base, raw)


def _by_entries(hive: bytes, base: BaseBlock | None, logs: list[_Log]) -> Recovered:
    """Apply the entries of all logs, earlier ones first; without a base block, of the latest."""
    newest = max(logs, key=lambda log: distance(log.base.primary, logs[0].base.primary))
    if base is None:
        hive = newest.raw[:SECTOR] + hive[SECTOR:]
        base, oldest_wanted, logs = newest.base, newest.base.primary, [newest]
    else:
        oldest_wanted = base.secondary
        logs = sorted(logs, key=lambda log: distance(log.base.primary, newest.base.primary))
    todo = _in_order(logs, oldest_wanted)
    if not todo:
        raise HiveDamagedError("it was being written, and its logs do not continue it")
    last = todo[-1]
    flags = base.flags & ~KTM_LOCKED | last.flags & KTM_LOCKED
    base = replace(base, length=last.length, flags=flags).settled(last.sequence + 1)
    return Recovered(_written(hive, base, (page for e in todo for page in e.pages)), len(todo))


def _in_order(logs: Iterable[_Log], oldest_wanted: int) -> list[Entry]:
    """Return the entries to apply: without a gap, none older than the hive is.

    "Log entries", notes 5 and 7; "New format" of "Multiple transaction log files".
    """
    found: list[Entry] = []
    for log in logs:
        if distance(log.base.primary, oldest_wanted) < 0:
            continue
        if found and distance(log.base.primary, found[-1].sequence) != 1:
            continue
        found += entries(log.raw, log.base.primary)
    return found


def _by_vector(hive: bytes, base: BaseBlock | None, logs: list[_Log]) -> Recovered:
    """Apply the first log of the same write as the hive ("Old format", "Base block", note 3)."""
    (written,) = (
        (base.written,)
        if base is not None
        else struct.unpack_from("<Q", hive, _BIN_WRITTEN_AT)
        if len(hive) >= _BIN_WRITTEN_AT + 8
        else (-1,)
    )
    log = next((log for log in logs if log.base.written == written), None)
    if log is None:
        raise HiveDamagedError("it was being written, and none of its logs is of that write")
    if base is None:
        hive = log.raw[:SECTOR] + hive[SECTOR:]
    pages = dirty_pages(log.raw, log.base.length)
    settled = replace(base or log.base, length=log.base.length).settled(log.base.primary + 1)
    return Recovered(_written(hive, settled, pages), 1)


def _written(hive: bytes, base: BaseBlock, pages: Iterable[Page]) -> bytes:
    """Return the hive with pages and base block written, grown as needed."""
    out = bytearray(hive)
    out += bytes(max(0, PAGE + base.length - len(out)))
    for page in pages:
        at = PAGE + page.offset
        out += bytes(max(0, at + len(page.data) - len(out)))
        out[at : at + len(page.data)] = page.data
    base.write_to(out)
    return bytes(out)
