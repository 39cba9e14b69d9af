# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunks of which only some pages are sent, and what is announced before."""

from __future__ import annotations

import pytest

from agent.capture.layout import Kind, Piece
from agent.stream import lane
from agent.stream.transfer import Options, Transfer
from agent.stream.work import Block, Taken, blocks
from p2v.model.errors import ProtocolError
from p2v.wire.chunk import CHUNK_SIZE, digest
from tests.agent.stream.conftest import Breaking
from tests.agent.stream.test_transfer import image_of, run


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.001)


def send(converter, migration, disk, queue, **more):
    transfer = Transfer(converter, migration.id, [disk], queue, Options(lanes=2), **more)
    transfer.start()
    assert transfer.wait(60), "it hangs"
    return transfer.result()


def change(disk, chunk, page, value=0x77) -> Block:
    content = bytearray(disk.content)
    at = chunk * CHUNK_SIZE + page * 4096
    content[at : at + 4096] = bytes([value]) * 4096
    disk.content = bytes(content)
    return block_of(chunk, ((page, 1),))


def block_of(chunk, pages=(), taken=None) -> Block:
    return Block(0, Piece(chunk * CHUNK_SIZE, CHUNK_SIZE, Kind.READ), pages, taken)


def test_only_the_pages_cross_the_wire(converter, migration, disk):
    run(converter, migration, disk)
    queue = [change(disk, chunk, chunk % 60) for chunk in range(40)]
    counters = send(converter, migration, disk, queue)
    assert counters.sent == 40 * 4096 and counters.wire < 40 * 5000
    assert counters.read == counters.durable == 40 * CHUNK_SIZE
    assert image_of(converter, migration) == disk.content


def test_a_chunk_that_moved_meanwhile_is_sent_whole(converter, migration, disk):
    run(converter, migration, disk)
    queue = [change(disk, chunk, 3) for chunk in range(8)]
    change(disk, 5, 9, 0x99)  # nobody said so
    counters = send(
        converter, migration, disk, queue, moved=lambda block: block.offset == 5 * CHUNK_SIZE
    )
    assert counters.reconnects == 0 and counters.sent == 7 * 4096 + CHUNK_SIZE
    assert image_of(converter, migration) == disk.content


def test_a_chunk_of_which_the_converter_has_another_base_is_sent_whole(converter, migration, disk):
    run(converter, migration, disk)
    queue = [change(disk, chunk, 3) for chunk in range(8)]
    change(disk, 5, 9, 0x99)  # nobody said so
    assert send(converter, migration, disk, queue).reconnects > 0
    assert image_of(converter, migration) == disk.content


def taken(disk, chunk, page) -> Block:
    block = change(disk, chunk, page)
    content = disk.content[chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE]
    pages = content[page * 4096 : (page + 1) * 4096]
    return block_of(chunk, block.pages, Taken(digest(content), pages))


def test_what_was_taken_before_is_sent_and_not_what_is_there_now(converter, migration, disk):
    run(converter, migration, disk)
    queue = [taken(disk, chunk, 7) for chunk in range(10)]
    wanted, disk.content = disk.content, bytes(len(disk.content))
    assert send(converter, migration, disk, queue).read == 0
    assert image_of(converter, migration) == wanted


def test_what_was_taken_survives_a_broken_connection(converter, migration, disk):
    run(converter, migration, disk)
    queue = [taken(disk, chunk, 7) for chunk in range(10)]
    wanted, disk.content = disk.content, bytes(len(disk.content))
    breaking = Breaking(converter, [3, 5, 2])
    assert send(breaking, migration, disk, queue).reconnects > 0
    assert image_of(converter, migration) == wanted


def test_pages_that_were_taken_of_an_unknown_base_end_the_pass(converter, migration, disk):
    run(converter, migration, disk)
    block = taken(disk, 4, 7)
    change(disk, 4, 9)
    whole = disk.content[4 * CHUNK_SIZE : 5 * CHUNK_SIZE]
    wrong = block_of(4, block.pages, Taken(digest(whole), block.taken.data))
    with pytest.raises(ProtocolError, match="digest"):
        send(converter, migration, disk, [wrong])


def missing(converter, migration) -> int:
    return sum(converter._migrations.missing(migration.id))


def test_what_is_announced_is_unknown_until_it_is_sent(converter, migration, disk):
    run(converter, migration, disk)
    seen = []
    read = disk.readinto

    def readinto(offset, buffer) -> None:
        seen.append(missing(converter, migration))
        read(offset, buffer)

    disk.readinto = readinto
    pieces = [Piece(at * CHUNK_SIZE, CHUNK_SIZE, Kind.READ) for at in (0, 1, 2, 7, 9, 10)]
    send(converter, migration, disk, blocks(0, pieces), announce=True)
    assert seen[0] == 6
    assert missing(converter, migration) == 0
    assert image_of(converter, migration) == disk.content


def test_what_could_not_be_announced_is_sent_as_it_is(converter, migration, disk):
    run(converter, migration, disk)
    change(disk, 5, 9)
    cut_at_once = Breaking(converter, [1, 1])  # each lane's, before it has told
    counters = send(cut_at_once, migration, disk, blocks(0, disk.whole), announce=True)
    assert counters.reconnects == 2 and counters.durable == len(disk.content)
    assert image_of(converter, migration) == disk.content
