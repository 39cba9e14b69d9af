# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from contextlib import closing

import pytest

from agent.capture.layout import Kind, Piece
from agent.stream import lane
from agent.stream.converter import ConnectionLostError
from agent.stream.kept import Kept
from agent.stream.remote import RemoteConverter
from agent.stream.transfer import Options, Transfer
from agent.stream.work import blocks
from p2v.model.migration import MigrationState
from p2v.wire.chunk import CHUNK_SIZE
from tests.agent.serving import serving
from tests.agent.stream.conftest import Breaking, content_of, plan_of
from tests.agent.stream.test_transfer import image_of


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.001)


def send(kept, migration, disk, lanes=2, pieces=None, **more):
    queue = blocks(0, pieces or disk.whole)
    transfer = Transfer(kept, migration.id, [disk], queue, Options(lanes=lanes), **more)
    transfer.start()
    assert transfer.wait(60), "it hangs"
    return transfer.result()


def rewrite(disk, seed) -> None:
    disk.content = content_of(60, seed)


def test_the_next_pass_goes_over_the_connections_of_the_one_before(converter, migration, disk):
    counting = Breaking(converter, [])
    with closing(Kept(counting)) as kept:
        for seed in range(4):
            rewrite(disk, seed)
            assert send(kept, migration, disk, announce=seed > 0).durable == len(disk.content)
    assert counting.connects == 2
    assert image_of(converter, migration) == disk.content


def test_a_connection_that_broke_while_it_was_kept_is_replaced(converter, migration, disk):
    lost = Breaking(converter, [])
    with closing(Kept(lost)) as kept:
        send(kept, migration, disk)
        for each in kept._idle.values():
            each._left = 0
        rewrite(disk, 7)
        assert send(kept, migration, disk).reconnects == 0
    assert lost.connects == 4
    assert image_of(converter, migration) == disk.content


def test_what_was_durable_before_says_nothing_of_the_next_pass(converter, migration, disk):
    def cut(sequence) -> None:
        raise ConnectionLostError("cut")

    with closing(Kept(Breaking(converter, []))) as kept:
        send(kept, migration, disk, lanes=1)
        for each in kept._idle.values():
            each.flush = cut
        part = [Piece(0, 20 * CHUNK_SIZE, Kind.READ)]
        counters = send(kept, migration, disk, lanes=1, pieces=part)
    assert counters.reconnects == 1 and counters.read == 2 * part[0].length


@pytest.mark.parametrize("calls", [1, 9, 17, 25])
def test_one_that_breaks_in_a_later_pass_loses_nothing(converter, migration, disk, calls):
    breaking = Breaking(converter, [calls + 8, calls + 8])
    with closing(Kept(breaking)) as kept:
        for seed in range(3):
            rewrite(disk, seed)
            counters = send(kept, migration, disk, announce=True)
            assert counters.durable == counters.handled == len(disk.content)
    assert image_of(converter, migration) == disk.content


def test_a_connection_on_which_something_is_under_way_is_not_kept(converter, migration):
    counting = Breaking(converter, [])
    with closing(Kept(counting)) as kept:
        kept.connect(migration.id, "0").close()
        again = kept.connect(migration.id, "0")
        assert counting.connects == 1
        again.send([])
        again.close()
        kept.connect(migration.id, "0").close()
        assert counting.connects == 2


def test_once_closed_nothing_is_kept(converter, migration):
    kept = Kept(converter)
    late = kept.connect(migration.id, "0")
    kept.connect(migration.id, "1").close()
    kept.close()
    late.close()
    assert converter._migrations.progress(migration.id)["connections"] == 0


def test_a_converter_that_was_started_anew_between_two_passes(tmp_path, disk):
    with (
        serving(tmp_path) as server,
        closing(RemoteConverter(server.address, server.credentials())) as converter,
    ):
        migration = converter.create(plan_of(disk))
        converter.lease(migration.id)
        with closing(Kept(converter)) as kept:
            send(kept, migration, disk)
            server.stop()
            server.start()
            rewrite(disk, 3)
            assert send(kept, migration, disk, announce=True).reconnects == 0
        converter.complete(migration.id, {})
        assert converter.get(migration.id).state is MigrationState.FINISHED
