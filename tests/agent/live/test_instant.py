# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from contextlib import closing
from random import Random

import pytest

from agent.capture.changes import Change
from agent.capture.layout import Kind, Piece
from agent.live.instant import Instant, MemoryFullError
from p2v.wire.chunk import CHUNK_SIZE, digest

SIZE = 8 * CHUNK_SIZE


class Memory:
    """A disk in memory."""

    def __init__(self) -> None:
        self.content = bytearray(Random(1).randbytes(SIZE))

    def readinto(self, offset, buffer) -> None:
        buffer[:] = self.content[offset : offset + len(buffer)]


@pytest.fixture
def disk():
    return Memory()


@pytest.fixture
def instant(disk):
    with closing(Instant([disk], 4 * CHUNK_SIZE)) as made:
        made.prepare(4 * CHUNK_SIZE)
        yield made


def change(first, count=1, pages=()):
    return Change(Piece(first * CHUNK_SIZE, count * CHUNK_SIZE, Kind.READ), pages)


def chunk(disk, number) -> bytes:
    return bytes(disk.content[number * CHUNK_SIZE : (number + 1) * CHUNK_SIZE])


def test_what_is_taken_stays_as_it_was(instant, disk):
    before = [chunk(disk, number) for number in range(2)]
    assert instant.take(0, [change(0, 2)]) == 2
    disk.content[:] = bytes(SIZE)
    assert [bytes(block.taken.data) for block in instant.blocks] == before
    assert [block.taken.digest for block in instant.blocks] == [digest(data) for data in before]


def test_of_pages_only_they_are_kept_with_the_digest_of_all(instant, disk):
    instant.take(0, [change(3, pages=((2, 1), (60, 4)))])
    (block,) = instant.blocks
    data = chunk(disk, 3)
    assert bytes(block.taken.data) == data[2 * 4096 : 3 * 4096] + data[60 * 4096 :]
    assert block.taken.digest == digest(data) and block.pages == ((2, 1), (60, 4))


def test_what_changes_again_replaces_what_was_taken_and_is_whole(instant, disk):
    instant.take(0, [change(1, pages=((0, 1),)), change(2)])
    disk.content[CHUNK_SIZE] ^= 1
    instant.take(0, [change(1, pages=((5, 1),))])
    assert [block.offset for block in instant.blocks] == [CHUNK_SIZE, 2 * CHUNK_SIZE]
    assert instant.blocks[0].pages == () and bytes(instant.blocks[0].taken.data) == chunk(disk, 1)


def test_more_than_there_is_room_for_is_not_even_read(instant, disk):
    reads = []
    real = disk.readinto
    disk.readinto = lambda *given: (reads.append(given), real(*given))
    with pytest.raises(MemoryFullError):
        instant.take(0, [change(0, 5)])
    assert reads == []


def test_it_can_be_used_again(instant, disk):
    for number in range(3):
        instant.prepare(4 * CHUNK_SIZE)
        instant.take(0, [change(number, 4)])
        assert [bytes(block.taken.data) for block in instant.blocks] == [
            chunk(disk, number + each) for each in range(4)
        ]


def test_the_rate_of_reading_is_measured(instant):
    assert instant.read_rate([SIZE]) > 0
    assert instant.read_rate([512]) > 0
