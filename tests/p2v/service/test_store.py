# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import sqlite3
import stat
import time

import pytest

from p2v.model.errors import MigrationStateError, NoSuchMigrationError, StoreError
from p2v.model.migration import Migration, MigrationState
from p2v.model.pairing import Code
from p2v.service.auth import authorise, issue_token
from p2v.service.store import Store, default_url


@pytest.fixture
def migration(make_plan):
    return Migration("m-1", make_plan(), MigrationState.RECEIVING, 1.0, 1.0, images=("/x",))


def test_a_migration_reads_back_equal(store, migration):
    store.add(migration)
    assert store.get("m-1") == migration


def test_an_id_is_given_once(store, migration):
    store.add(migration)
    with pytest.raises(MigrationStateError, match="another id"):
        store.add(migration)


def test_of_two_changes_of_state_one_wins(store, migration):
    store.add(migration)
    sources = [MigrationState.RECEIVING]
    assert store.move("m-1", sources, MigrationState.CANCELLED)
    assert not store.move("m-1", sources, MigrationState.VERIFYING)
    assert store.get("m-1").state is MigrationState.CANCELLED
    assert [event.kind for event in store.events("m-1")] == ["receiving", "cancelled"]


def test_every_handing_over_has_its_own_number(store, migration):
    store.add(migration)
    assert store.hand_over("m-1", {"a": 1}) == 1
    assert store.hand_over("m-1", {}) == 0
    store.move("m-1", [MigrationState.VERIFYING], MigrationState.PAUSED, problem="rot")
    assert store.hand_over("m-1", {"a": 2}) == 2
    assert store.get("m-1").report == {"a": 2}


def test_converters_that_share_a_database_see_their_own_migrations(tmp_path, migration):
    one = Store(default_url(tmp_path), "one")
    two = Store(default_url(tmp_path), "two")
    one.add(migration)
    assert two.migrations() == []
    with pytest.raises(NoSuchMigrationError):
        two.get("m-1")
    assert not two.move("m-1", [MigrationState.RECEIVING], MigrationState.FAILED)
    with pytest.raises(MigrationStateError):
        two.add(migration)


def test_a_store_of_another_version_is_refused(tmp_path):
    Store(default_url(tmp_path)).close()
    with sqlite3.connect(tmp_path / "p2v.sqlite") as db:
        db.execute("UPDATE p2v_about SET value = '99'")
    with pytest.raises(StoreError, match="version 99"):
        Store(default_url(tmp_path))


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////nowhere/at/all.sqlite", "oracle://x/y", "postgresql://["]
)
def test_a_database_that_cannot_be_had_is_one_error(url):
    with pytest.raises(StoreError):
        Store(url)


def test_the_database_is_durable_and_private(store, tmp_path):
    with store._engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    for path in tmp_path.glob("p2v.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_code_is_tried_three_times_and_used_once(store):
    code = Code.new()
    assert store.add_code(code, time.time() + 60, tries=3)
    assert not store.add_code(code, time.time() + 60, tries=3)
    assert [store.try_code(code.name) for _ in range(4)] == [code, code, code, None]
    assert store.use_code(code.name)
    assert not store.use_code(code.name)


def test_a_code_that_ran_out_is_no_code(store):
    code = Code.new()
    store.add_code(code, time.time() - 1, tries=3)
    assert store.try_code(code.name) is None
    assert not store.use_code(code.name)


def test_only_the_digest_of_a_token_is_kept(store, tmp_path):
    _, text = issue_token(store, "web01")
    assert authorise(store, text).name == "web01"
    store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"web01" in kept and text.encode() not in kept


def test_events_show_the_last_ones_in_order(store, migration):
    store.add(migration)
    for number in range(250):
        state = MigrationState.RECEIVING
        store.move("m-1", [state], state, problem=str(number))
    texts = [event.text for event in store.events("m-1")]
    assert len(texts) == 200 and texts[-1] == "249" and texts[0] == "50"
