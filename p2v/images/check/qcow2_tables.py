# SPDX-License-Identifier: GPL-3.0-or-later
"""The L1 and L2 tables of a qcow2: each entry against its rules.

Memory: the L1 table (QEMU's limit is 32 MiB), one L2 table, and a bit for each cluster of the
file, touched only where an L2 table lies.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2v.images.check.bitmap import ClaimMap
from p2v.images.check.report import Findings
from p2v.images.check.source import Source

COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
OFFSET = 0x00FF_FFFF_FFFF_FE00
PLAIN_MASK = ~OFFSET & (1 << 64) - 1
"""The bits of an entry that are just `COPIED` where a whole cluster is stored as it is."""
_L1_RESERVED = 0x7F00_0000_0000_01FF
_L2_RESERVED = 0x3F00_0000_0000_01FE
_L2_RESERVED_V2 = _L2_RESERVED | ZERO

MAX_CLUSTERS = 1 << 30
"""Clusters of a file that are told apart: 64 TiB of 64 KiB ones, at 128 MiB of bits at the most."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the header says that things are. `exclusive`: no snapshot shares the clusters."""

    cluster_bits: int
    size: int
    l1_offset: int
    l1_size: int
    refcount_offset: int
    refcount_clusters: int
    refcount_order: int
    version: int
    extended_l2: bool
    data_file: bool
    exclusive: bool

    @property
    def cluster(self) -> int:
        """Cluster size in bytes."""
        return 1 << self.cluster_bits

    def compressed(self, entry: int) -> tuple[int, int]:
        """Return the byte at which a compressed cluster begins and the one at which it ends.

        The end is that of its last 512-byte sector.
        """
        shift = 62 - (self.cluster_bits - 8)
        start = entry & (1 << shift) - 1
        sectors = (entry & COMPRESSED - 1) >> shift
        return start, (start & ~511) + (sectors + 1) * 512


@dataclass(slots=True)
class Tables:
    """The L2 tables that can be trusted to be ones."""

    source: Source
    layout: Layout
    l1: array[int]
    """Offset of each L2 table, 0 where there is none or it is not usable."""
    allocated: int = 0

    def l2_tables(self) -> Iterator[tuple[int, int, Sequence[int]]]:
        """Yield guest offset, file offset and entries of each L2 table that is not empty."""
        layout = self.layout
        span = layout.cluster * (layout.cluster // (16 if layout.extended_l2 else 8))
        for index, offset in enumerate(self.l1):
            if offset and not self.source.is_hole(offset, layout.cluster):
                yield index * span, offset, words(self.source.read(offset, layout.cluster))


def words(raw: bytes) -> array[int]:
    """Return big-endian 64-bit numbers."""
    result = array("Q", raw[: len(raw) & ~7])
    if sys.byteorder == "little":
        result.byteswap()
    return result


def check_tables(source: Source, findings: Findings, layout: Layout) -> Tables:
    """Check the L1 table and every L2 table, and return those that are sound."""
    tables = Tables(source, layout, array("Q"))
    clusters = -(-source.size // layout.cluster)
    if clusters > MAX_CLUSTERS:
        findings.error("too-large", f"{clusters} clusters are more than p2v can check")
        return tables
    if layout.data_file:
        findings.warn("data-file", "its data lies in an external file, not checked here")
    tables.l1 = _check_l1(source, findings, layout, clusters)
    for guest, offset, entries in tables.l2_tables():
        _L2(source, findings, layout, guest, offset).check(entries, tables)
    return tables


def _check_l1(source: Source, findings: Findings, layout: Layout, clusters: int) -> array[int]:
    seen = ClaimMap(clusters)
    l1 = words(source.read(layout.l1_offset, layout.l1_size * 8))
    for index, entry in enumerate(l1):
        if not entry:
            continue
        place = layout.l1_offset + index * 8
        offset = entry & OFFSET
        l1[index] = 0
        if entry & _L1_RESERVED:
            findings.error("l1-reserved", f"L1 entry {index} is {entry:#x}: reserved bits", place)
        if not offset:
            continue
        if offset & layout.cluster - 1 or offset + layout.cluster > source.size:
            findings.error("l2-offset", f"L1 entry {index}: no L2 table at {offset:#x}", place)
        elif not seen.claim(offset >> layout.cluster_bits):
            findings.error(
                "l2-shared", f"L1 entry {index}: another one has its L2 table too", place
            )
        else:
            l1[index] = offset
            if layout.exclusive and not entry & COPIED:
                findings.error("copied-missing", f"L1 entry {index} lacks the COPIED flag", place)
    return l1


class _L2:
    """The check of one L2 table."""

    def __init__(
        self, source: Source, findings: Findings, layout: Layout, guest: int, offset: int
    ) -> None:
        self._end = source.size
        self._findings = findings
        self._layout = layout
        self._guest = guest
        self._offset = offset
        self._reserved = _L2_RESERVED
        if layout.version == 2 or layout.extended_l2:
            self._reserved = _L2_RESERVED_V2

    def check(self, entries: Sequence[int], tables: Tables) -> None:
        step = 2 if self._layout.extended_l2 else 1
        cluster = self._layout.cluster
        entries, plain = self._plain(entries)
        tables.allocated += plain * cluster
        for index in range(0, len(entries), step):
            entry = entries[index]
            subclusters = entries[index + 1] if step == 2 else 0
            if not entry and not subclusters:
                continue
            place = self._offset + index * 8
            guest = self._guest + index // step * cluster
            if guest >= self._layout.size:
                self._findings.warn("beyond-disk", f"a cluster beyond the disk, {guest:#x}", place)
            if entry & COMPRESSED:
                self._compressed(entry, subclusters, guest, place)
                tables.allocated += cluster
            elif self._standard(entry, subclusters, guest, place):
                tables.allocated += cluster

    def _plain(self, entries: Sequence[int]) -> tuple[Sequence[int], int]:
        """Take out the entries that a glance shows to be good, and count them.

        They are nearly all in an image of any size, and a glance is ten times faster: 0.2 us.
        """
        layout = self._layout
        span = len(entries) * layout.cluster
        if layout.extended_l2 or layout.data_file or self._guest + span > layout.size:
            return entries, 0
        others = PLAIN_MASK | layout.cluster - 1
        lowest, highest = COPIED | layout.cluster, COPIED | max(self._end - layout.cluster, 0)
        rest = [
            0 if not entry & others ^ COPIED and lowest <= entry <= highest else entry
            for entry in entries
        ]
        return rest, rest.count(0) - entries.count(0)

    def _compressed(self, entry: int, subclusters: int, guest: int, place: int) -> None:
        _, end = self._layout.compressed(entry)
        if entry & COPIED:
            self._findings.error(
                "copied-compressed", f"compressed cluster {guest:#x} has the COPIED flag", place
            )
        if subclusters or self._layout.data_file:
            self._findings.error("compressed", f"cluster {guest:#x} may not be compressed", place)
        if end > self._end:
            self._findings.error(
                "compressed-beyond-end",
                f"compressed cluster {guest:#x} ends at {end:#x}, the file at {self._end:#x}",
                place,
            )

    def _standard(self, entry: int, subclusters: int, guest: int, place: int) -> bool:
        """Check the entry of a plain cluster; return whether it holds data."""
        offset = entry & OFFSET
        if entry & self._reserved:
            self._findings.error("l2-reserved", f"L2 entry {entry:#x}: reserved bits", place)
        if self._layout.extended_l2:
            self._subclusters(subclusters, offset, guest, place)
        if not offset and not self._layout.data_file:
            if entry & COPIED:
                self._findings.error("copied-absent", f"absent {guest:#x} is COPIED", place)
            return False
        if self._layout.data_file:
            if offset != guest and not entry & ZERO:
                self._findings.error("data-file-offset", f"{guest:#x} lies elsewhere", place)
        else:
            self._place(offset, guest, place)
        if self._layout.exclusive and not entry & COPIED:
            self._findings.error("copied-missing", f"{guest:#x} lacks the COPIED flag", place)
        return not entry & ZERO

    def _place(self, offset: int, guest: int, place: int) -> None:
        needed = min(self._layout.cluster, max(self._layout.size - guest, 0))
        if offset & self._layout.cluster - 1:
            self._findings.error(
                "cluster-offset", f"cluster {guest:#x} at {offset:#x} is not aligned", place
            )
        elif offset >= self._end:
            self._findings.error(
                "cluster-beyond-end", f"cluster {guest:#x} lies at {offset:#x}, past the end", place
            )
        elif offset + needed > self._end:
            self._findings.error(
                "cluster-cut", f"cluster {guest:#x} ends beyond the file's end", place
            )

    def _subclusters(self, bits: int, offset: int, guest: int, place: int) -> None:
        stored, zero = bits & 0xFFFFFFFF, bits >> 32
        if stored & zero:
            self._findings.error("subclusters", f"{guest:#x}: stored and zero at once", place)
        if stored and not offset and not self._layout.data_file:
            self._findings.error("subclusters", f"{guest:#x}: stored, but nowhere", place)
