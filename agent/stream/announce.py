# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells a converter which chunks are sent anew, before they are: it then forgets all at once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from itertools import islice

from agent.stream.converter import ConnectionLostError, Converter
from agent.stream.work import Block
from p2v.model.errors import MigrationBusyError, UnreachableError
from p2v.wire.codec import Buffer
from p2v.wire.frame import Frame, Kind

log = logging.getLogger(__name__)

LANE = "announce"
BATCH = 2048
"""Blocks that are announced at once: half a GiB of single chunks."""


def announced(queue: Iterable[Block], converter: Converter, migration: str) -> Iterator[Block]:
    """Yield the blocks of `queue`; each has been announced to the converter by then.

    That saves the converter's disk a lot of syncs and nothing else, so that it is left out while
    the converter is away.
    """
    blocks = iter(queue)
    while batch := list(islice(blocks, BATCH)):
        try:
            with contextlib.closing(converter.connect(migration, LANE)) as connection:
                frames = _frames(batch)
                connection.send(frames)
                connection.flush(len(frames) + 1)
        except (ConnectionLostError, UnreachableError, MigrationBusyError) as error:
            log.info("not announced: %s", error)
        yield from batch


def _frames(batch: Iterable[Block]) -> list[tuple[Frame, Buffer]]:
    """Return a frame for each run of blocks that follow one another."""
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
        for sequence, (disk, start, end) in enumerate(runs, 1)
    ]
