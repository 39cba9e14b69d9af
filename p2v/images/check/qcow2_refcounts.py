# SPDX-License-Identifier: GPL-3.0-or-later
"""The refcounts of a qcow2, counted anew and compared with what it says.

The host clusters are taken in windows, with a pass over the L2 tables for each, so that memory
stays at 96 MiB; one window covers 2 TiB of 64 KiB clusters.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence

from p2v.images.check.qcow2_tables import (
    COMPRESSED,
    COPIED,
    OFFSET,
    PLAIN_MASK,
    Tables,
    words,
)
from p2v.images.check.report import Findings
from p2v.images.check.source import Source

_WINDOW = 1 << 25
_MOST = 0xFFFF
"""Counts stop here; a refcount of 16 bits, the usual width, cannot hold more."""

_TABLE_RESERVED = 0x1FF
_METADATA, _DATA, _PACKED = 1, 2, 3
_KINDS = {_METADATA: "metadata", _DATA: "data", _PACKED: "compressed data"}


def check_refcounts(source: Source, findings: Findings, tables: Tables) -> None:
    """Compare every refcount with the references that there are, and find overlaps on the way.

    Raises:
        OSError: the file cannot be read.
    """
    blocks = _refcount_blocks(source, findings, tables)
    clusters = -(-source.size // tables.layout.cluster)
    for start in range(0, clusters, _WINDOW):
        window = _Window(findings, tables, start, min(clusters - start, _WINDOW))
        window.count(blocks)
        window.compare(source, blocks)


def _refcount_blocks(source: Source, findings: Findings, tables: Tables) -> array[int]:
    """Return the offset of each refcount block, 0 where there is none or it is not usable."""
    layout = tables.layout
    table = words(source.read(layout.refcount_offset, layout.refcount_clusters * layout.cluster))
    for index, offset in enumerate(table):
        if not offset:
            continue
        place = layout.refcount_offset + index * 8
        if offset & (_TABLE_RESERVED | layout.cluster - 1) or offset >= source.size:
            findings.error(
                "refcount-block", f"refcount block {index} is said to lie at {offset:#x}", place
            )
            table[index] = 0
    return table


class _Window:
    """The references to a range of host clusters."""

    def __init__(self, findings: Findings, tables: Tables, start: int, length: int) -> None:
        self._findings = findings
        self._tables = tables
        self._bits = tables.layout.cluster_bits
        self._start = start
        self._length = length
        # A zeroed bytearray costs no memory before it is written to.
        self._counts = memoryview(bytearray(length * 2)).cast("H")
        self._kinds = bytearray(length)

    def count(self, blocks: Sequence[int]) -> None:
        """Count the references, the metadata's first."""
        layout = self._tables.layout
        self._add_range(0, layout.cluster)
        self._add_range(layout.l1_offset, layout.l1_size * 8)
        self._add_range(layout.refcount_offset, layout.refcount_clusters * layout.cluster)
        for offset in (*filter(None, blocks), *filter(None, self._tables.l1)):
            self._add(offset >> self._bits, _METADATA)
        for _, _, entries in self._tables.l2_tables():
            self._count_l2(entries)

    def _count_l2(self, entries: Sequence[int]) -> None:
        layout = self._tables.layout
        bits, start, length = self._bits, self._start, self._length
        counts, kinds = self._counts, self._kinds
        for entry in entries[:: 2 if layout.extended_l2 else 1]:
            if entry & PLAIN_MASK == COPIED and entry & OFFSET and not layout.data_file:
                # The usual entry, without a call.
                index = ((entry ^ COPIED) >> bits) - start
                if 0 <= index < length and not kinds[index]:
                    kinds[index] = _DATA
                    counts[index] = 1
                else:
                    self._add(index + start, _DATA)
            elif entry & COMPRESSED:
                low, end = layout.compressed(entry)
                for cluster in range((low & ~511) >> bits, (end - 1 >> bits) + 1):
                    self._add(cluster, _PACKED)
            elif entry & OFFSET and not layout.data_file:
                self._add((entry & OFFSET) >> self._bits, _DATA)

    def _add_range(self, offset: int, length: int) -> None:
        first = offset >> self._bits
        for cluster in range(first, first - (-length >> self._bits)):
            self._add(cluster, _METADATA)

    def _add(self, cluster: int, kind: int) -> None:
        index = cluster - self._start
        if not 0 <= index < self._length:
            return
        before = self._kinds[index]
        if before and not before == kind == _PACKED:
            self._findings.error(
                "cluster-shared",
                f"{_KINDS[kind]} and {_KINDS[before]} share a cluster",
                cluster << self._bits,
            )
        self._kinds[index] = before or kind
        if self._counts[index] < _MOST:
            self._counts[index] += 1

    # --- comparing -------------------------------------------------------------------------------

    def compare(self, source: Source, blocks: Sequence[int]) -> None:
        """Compare the counts with the refcount blocks."""
        for at, refcounts in self._stored(source, blocks):
            counts = self._counts[at : at + len(refcounts)]
            if counts.tobytes() != refcounts.tobytes():
                for index, (count, stored) in enumerate(zip(counts, refcounts, strict=True), at):
                    if count != stored:
                        self._differs(index, count, stored)

    def _differs(self, index: int, count: int, stored: int) -> None:
        place = self._start + index << self._bits
        text = f"refcount {stored} where {count} references are"
        if stored < count:
            self._findings.error("refcount-low", text, place)
        else:
            self._findings.warn("refcount-high", f"{text}: room that is lost", place)

    def _stored(self, source: Source, blocks: Sequence[int]) -> Iterator[tuple[int, array[int]]]:
        """Yield index in the window and refcounts, cut at `_MOST`, a block at a time."""
        layout = self._tables.layout
        per_block = layout.cluster * 8 >> layout.refcount_order
        end = self._start + self._length
        for number in range(self._start // per_block, -(-end // per_block)):
            offset = blocks[number] if number < len(blocks) else 0
            first = max(number * per_block, self._start)
            last = min((number + 1) * per_block, end)
            raw = source.read(offset, layout.cluster) if offset else b""
            raw = raw.ljust(layout.cluster, b"\0")
            skip = first - number * per_block
            refcounts = _unpack(raw, layout.refcount_order, skip, last - first)
            yield first - self._start, refcounts


def _unpack(raw: bytes, order: int, start: int, count: int) -> array[int]:
    """Return `count` refcounts of ``1 << order`` bits from number `start` on, as 16-bit ones."""
    if order < 3:
        width = 1 << order
        per_byte = 8 // width
        mask = (1 << width) - 1
        return array(
            "H",
            (
                raw[index // per_byte] >> index % per_byte * width & mask
                for index in range(start, start + count)
            ),
        )
    size = 1 << order - 3
    piece = raw[start * size : (start + count) * size]
    refcounts = array("BHIQ"[order - 3], piece)
    if sys.byteorder == "little":
        refcounts.byteswap()
    return refcounts if order == 4 else array("H", (min(one, _MOST) for one in refcounts))
