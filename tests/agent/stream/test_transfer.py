# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import threading
from itertools import repeat
from pathlib import Path
from random import Random

import pytest

from agent.capture.layout import Kind, Piece
from agent.stream import lane as lane_module
from agent.stream.converter import ConnectionLostError
from agent.stream.lane import Counters, _Retry
from agent.stream.transfer import LANE_WORTH, Options, Transfer, default_lanes, lanes_for
from agent.stream.work import blocks
from p2v.model.errors import (
    AuthError,
    MigrationBusyError,
    ProtocolError,
    SourceChangedError,
    UnreachableError,
)
from p2v.model.migration import MigrationState
from p2v.model.plan import Codec
from p2v.wire.chunk import CHUNK_SIZE
from p2v.wire.digestmap import expand_group
from tests.agent.stream.conftest import Breaking


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(lane_module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(lane_module, "LONGEST_PAUSE_S", 0.002)


def run(converter, migration, disk, *, pieces=None, known=None, **options) -> Counters:
    queue = blocks(0, disk.whole if pieces is None else pieces)
    transfer = Transfer(converter, migration.id, [disk], queue, Options(**options), known)
    transfer.start()
    try:
        assert transfer.wait(60), "it hangs"
        return transfer.result()
    finally:
        transfer.cancel()


def image_of(converter, migration) -> bytes:
    converter.complete(migration.id, {})
    found = converter.get(migration.id)
    assert found.state is MigrationState.FINISHED, found.problem
    return Path(found.images[0]).read_bytes()


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_disk_arrives(converter, migration, disk, codec, lanes):
    counters = run(converter, migration, disk, codec=codec, lanes=lanes)
    size = len(disk.content)
    assert counters.handled == counters.durable == counters.read == size
    assert counters.zero + counters.sent == size
    assert counters.reconnects == counters.same == 0
    assert image_of(converter, migration) == disk.content


@pytest.mark.parametrize("seed", range(6))
def test_connections_that_break_all_the_time_lose_nothing(converter, migration, disk, seed):
    random = Random(seed)
    breaking = Breaking(converter, (random.randrange(1, 12) for _ in range(40)))
    counters = run(breaking, migration, disk, lanes=3)
    assert counters.handled == counters.durable == len(disk.content)
    assert counters.reconnects == breaking.connects - 3 > 0
    assert image_of(converter, migration) == disk.content


def test_what_was_durable_before_a_break_is_not_sent_again(converter, migration, disk):
    receiver = converter._migrations.receiver(migration.id)
    breaking = Breaking(converter, [20])  # ten blocks and their answers
    first = threading.Event()
    read = disk.readinto

    def readinto(offset, buffer) -> None:
        if offset >= 8 << 20 and not first.is_set():
            first.set()
            receiver.checkpoint()
        read(offset, buffer)

    disk.readinto = readinto
    counters = run(breaking, migration, disk, lanes=1)
    assert counters.reconnects == 1
    again = counters.read - len(disk.content)
    assert 0 < again <= 3 << 20


def test_what_the_converter_has_is_read_but_not_sent(converter, migration, disk):
    run(converter, migration, disk)

    def known(number, group):
        body = converter.digests(migration.id, number, group)
        return expand_group(body, group, len(disk.content))

    changed = bytearray(disk.content)
    changed[5 * CHUNK_SIZE : 5 * CHUNK_SIZE + 3] = b"new"
    disk.content = bytes(changed)
    counters = run(converter, migration, disk, known=known)
    assert counters.same == len(disk.content) - CHUNK_SIZE
    assert counters.sent == CHUNK_SIZE
    assert counters.durable == counters.handled == len(disk.content)
    assert image_of(converter, migration) == disk.content


def test_pieces_of_all_kinds(converter, migration, disk):
    size = len(disk.content)
    literal = b"\x77" * CHUNK_SIZE
    pieces = [
        Piece(0, CHUNK_SIZE, Kind.LITERAL, "swap", literal),
        Piece(CHUNK_SIZE, 3 * CHUNK_SIZE, Kind.ZERO, "free"),
        Piece(4 * CHUNK_SIZE, CHUNK_SIZE, Kind.READ, overlay=((4 * CHUNK_SIZE + 9, b"over"),)),
        Piece(5 * CHUNK_SIZE, size - 5 * CHUNK_SIZE, Kind.READ),
    ]
    counters = run(converter, migration, disk, pieces=pieces)
    assert counters.read == size - 4 * CHUNK_SIZE
    got = image_of(converter, migration)
    assert got[: 4 * CHUNK_SIZE] == literal + bytes(3 * CHUNK_SIZE)
    assert got[4 * CHUNK_SIZE + 9 :][:4] == b"over"
    assert got[5 * CHUNK_SIZE :] == disk.content[5 * CHUNK_SIZE :]


def test_a_source_that_fails_ends_the_transfer_with_its_error(converter, migration, disk):
    def readinto(offset, buffer) -> None:
        raise SourceChangedError(disk="/dev/sda", problem="it is gone")

    disk.readinto = readinto
    with pytest.raises(SourceChangedError):
        run(converter, migration, disk)


def test_a_refusal_ends_the_transfer_at_once(converter, migration, disk):
    with pytest.raises(AuthError):
        run(Breaking(converter, [AuthError(problem="revoked")]), migration, disk)


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError(server="x", problem="gone"),
        MigrationBusyError(id="m", agent="a", seconds=1),
        ProtocolError(problem="?"),
        ConnectionLostError("cut"),
    ],
)
def test_a_converter_that_stays_away_is_given_up_after_a_while(converter, migration, disk, error):
    with pytest.raises(type(error)):
        run(Breaking(converter, repeat(error)), migration, disk, patience_s=0.05)


def test_a_converter_that_returns_in_time_is_waited_for(converter, migration, disk):
    away = UnreachableError(server="x", problem="gone")
    run(Breaking(converter, [away] * 9), migration, disk, patience_s=60)
    assert image_of(converter, migration) == disk.content


def test_cancelling_ends_the_lanes_after_their_block(converter, migration, disk):
    read = disk.readinto
    begun = threading.Event()

    def readinto(offset, buffer) -> None:
        begun.set()
        read(offset, buffer)

    disk.readinto = readinto
    transfer = Transfer(
        converter, migration.id, [disk], blocks(0, disk.whole), Options(bwlimit=1 << 20)
    )
    transfer.start()
    assert begun.wait(20)
    transfer.cancel()
    assert transfer.wait(20)
    assert transfer.result().durable < len(disk.content)


def test_a_retry_pauses_longer_each_time_and_starts_over_when_something_moved(monkeypatch):
    monkeypatch.setattr(lane_module, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(lane_module, "LONGEST_PAUSE_S", 8.0)
    retry = _Retry(1000)
    error = ConnectionLostError("cut")
    pauses = [retry.pause(error, moved=False) for _ in range(6)]
    for pause, wanted in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.7 * wanted <= pause <= 1.3 * wanted
    retry.pause(error, moved=True)
    assert retry.pause(error, moved=False) <= 2.6


def test_lanes_are_two_a_core_within_bounds():
    assert 2 <= default_lanes() <= 8


def test_a_short_pass_gets_no_more_lanes_than_it_is_worth():
    assert lanes_for(0) == lanes_for(1) == lanes_for(LANE_WORTH) == 1
    assert lanes_for(LANE_WORTH + 1, 4) == 2
    assert lanes_for(1 << 40) == default_lanes() and lanes_for(1 << 40, 3) == 3
