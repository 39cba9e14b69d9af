# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads an image back and holds it against its digest map, before it is committed.

What reads as zeros without being stored is not hashed, so that the empty part of a disk costs
nothing: on a 6 GiB disk with 1 GiB in use this took the check from 7 s to under 1 s.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import native
from p2v.images.base import ImageReader
from p2v.wire.chunk import (
    CHUNK_SIZE,
    DIGEST_SIZE,
    GROUP_CHUNKS,
    GROUP_SIZE,
    chunk_length,
    digest,
    group_count,
    zero_digest,
)
from p2v.wire.digestmap import DigestMap, GroupState, expand_group

WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Damage:
    """Chunks that do not read as their digest says: how many, and the first one's index."""

    count: int
    first: int


def verify(
    image: ImageReader, digests: DigestMap, progress: Callable[[int], None]
) -> Damage | None:
    """Compare every chunk of `image` with its digest; forget, durably, the digests that are wrong.

    `progress` is called with the bytes of disk that were looked at since its last call. Returns
    None when all is well.
    """
    count, first = 0, -1
    numbers = iter(range(group_count(digests.size)))
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="verify") as pool:
        while batch := list(islice(numbers, 2 * WORKERS)):
            for number, bad in zip(
                batch, pool.map(lambda n: _differing(image, digests, n), batch), strict=True
            ):
                for index in bad:
                    digests.forget(index)
                if bad and first < 0:
                    first = bad[0]
                count += len(bad)
                progress(min(GROUP_SIZE, digests.size - number * GROUP_SIZE))
    if not count:
        return None
    digests.sync()
    return Damage(count, first)


def _differing(image: ImageReader, digests: DigestMap, number: int) -> list[int]:
    """Return the chunks of a group that do not read as their digest says."""
    size = digests.size
    first = number * GROUP_CHUNKS
    count = min(GROUP_CHUNKS, digests.chunks - first)
    stored = _stored(image, number, count, size)
    body = digests.group(number)
    if body[0] == GroupState.ZERO and 1 not in stored:
        return []
    expected = expand_group(body, number, size)
    if expected is None:
        return list(range(first, first + count))
    zeros = expand_group(bytes([GroupState.ZERO]), number, size) or b""
    buffer = bytearray(CHUNK_SIZE)
    bad = []
    at = 0
    while at < count:
        if not stored[at]:
            found = stored.find(1, at)
            stop = count if found < 0 else found
            bad += [first + index for index in _unlike(expected, zeros, at, stop)]
            at = stop
            continue
        view = memoryview(buffer)[: chunk_length(first + at, size)]
        image.readinto((first + at) * CHUNK_SIZE, view)
        wanted = expected[at * DIGEST_SIZE : (at + 1) * DIGEST_SIZE]
        zero = wanted == zero_digest(len(view))
        if not (native.is_zero(view) if zero else digest(view) == wanted):
            bad.append(first + at)
        at += 1
    return bad


def _unlike(expected: bytes, zeros: bytes, start: int, stop: int) -> list[int]:
    """Return which digests from `start` to `stop` differ; usually none, so first as a whole."""
    low, high = start * DIGEST_SIZE, stop * DIGEST_SIZE
    if expected[low:high] == zeros[low:high]:
        return []
    return [
        index
        for index in range(start, stop)
        if not expected.startswith(
            zeros[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE], index * DIGEST_SIZE
        )
    ]


def _stored(image: ImageReader, number: int, count: int, size: int) -> bytearray:
    """Return a byte a chunk of the group: 1 where the image stores anything of it."""
    start = number * GROUP_SIZE
    stored = bytearray(count)
    for extent in image.extents(start, min(GROUP_SIZE, size - start)):
        if not extent.zero:
            low = (extent.offset - start) // CHUNK_SIZE
            high = -(-(extent.end - start) // CHUNK_SIZE)
            stored[low:high] = b"\1" * (high - low)
    return stored
