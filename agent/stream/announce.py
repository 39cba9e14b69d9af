# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells a converter which chunks are sent anew, before they are: it then forgets all at once.

That saves the converter's disk a lot of syncs and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.stream.work import Block
from p2v.wire.codec import Buffer
from p2v.wire.frame import Frame, Kind


def announcement(batch: Iterable[Block], first: int) -> list[tuple[Frame, Buffer]]:
    """Return a frame for each run of blocks that follow one another, numbered from `first` on."""
    runs: list[tuple[int, int, int]] = []
    for block in batch:
        if runs:
            disk, start, end = runs[-1]
            if block.disk == disk and block.offset == end:
                runs[-1] = (disk, start, end + block.length)
                continue
        runs.append((block.disk, block.offset, block.offset + block.length))
    return [
        (Frame(Kind.FORGET, disk, start, end - start, sequence), b"")
        for sequence, (disk, start, end) in enumerate(runs, first)
    ]
