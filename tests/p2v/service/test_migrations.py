# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from p2v.model.errors import (
    ImageError,
    MigrationBusyError,
    MigrationStateError,
    NoRoomError,
    NoSuchDiskError,
    NoSuchMigrationError,
    StoreError,
    UsageError,
)
from p2v.model.migration import MigrationState
from p2v.model.plan import ImageFormat
from p2v.model.planfile import load
from p2v.service import engine as engine_module
from p2v.service.engine import InlineEngine
from p2v.service.migrations import Migrations
from p2v.service.receiver import Receiver
from p2v.service.steps import STEPS, Next
from p2v.service.store import Store, default_url
from p2v.wire.chunk import CHUNK_SIZE


@pytest.fixture
def sent(migrations, make_plan, send_all):
    """A migration that has everything, its lease, and what its disk must read as."""
    migration = migrations.create(make_plan(), "tests")
    lease = migrations.lease(migration.id, "agent-a")
    receiver = migrations.join(migration.id, lease)
    disk = send_all(receiver)
    migrations.leave(migration.id, lease)
    return migration.id, lease, disk


def reopened(migrations, tmp_path):
    """Return the registry as another process finds it after a crash of this one."""
    for entry in migrations._entries.values():
        entry.close()  # no checkpoint: a process that dies only closes its files
    return Migrations(tmp_path, Store(default_url(tmp_path)), InlineEngine())


def test_a_migration_ends_finished_with_its_image_in_place(migrations, sent):
    name, lease, disk = sent
    migrations.complete(name, lease, {"bytes_read": 7})
    found = migrations.get(name)
    assert found.state is MigrationState.FINISHED and found.problem == ""
    assert [Path(image).read_bytes() for image in found.images] == [disk]
    report = json.loads((migrations.folders.path(name) / "report.json").read_text())
    assert report["state"] == "finished" and report["report"] == {"bytes_read": 7}
    assert [event.kind for event in migrations.events(name)] == [
        "receiving",
        "verifying",
        "committing",
        "finished",
    ]


@pytest.mark.parametrize("image", list(ImageFormat))
def test_every_format_goes_through(migrations, make_plan, send_all, image):
    migration = migrations.create(make_plan(image=image), "tests")
    lease = migrations.lease(migration.id, "a")
    send_all(migrations.receiver(migration.id))
    migrations.complete(migration.id, lease, {})
    found = migrations.get(migration.id)
    assert found.state is MigrationState.FINISHED
    assert Path(found.images[0]).suffix == f".{image}"


def test_the_plan_lies_beside_the_images(migrations, make_plan):
    plan = make_plan()
    migration = migrations.create(plan, "tests")
    assert load((migrations.folders.path(migration.id) / "plan.toml").read_text()) == plan


def test_completing_twice_is_harmless(migrations, sent):
    name, lease, _ = sent
    migrations.complete(name, lease, {})
    migrations.complete(name, lease, {})
    assert migrations.get(name).state is MigrationState.FINISHED
    assert migrations.store.attempt(name) == 1


def test_completing_again_starts_an_engine_that_failed_to_start(migrations, sent, monkeypatch):
    name, lease, _ = sent

    def broken(*_):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(InlineEngine, "finish", broken)
        with pytest.raises(ConnectionError):
            migrations.complete(name, lease, {})
    assert migrations.get(name).state is MigrationState.VERIFYING
    migrations.complete(name, lease, {})
    assert migrations.get(name).state is MigrationState.FINISHED


def test_of_many_runs_of_the_steps_none_opens_a_finished_image(migrations, sent, monkeypatch):
    name, _, disk = sent
    states, commit = [], Receiver.commit

    def watched(self):
        states.append(migrations.get(name).state)
        return commit(self)

    monkeypatch.setattr(Receiver, "commit", watched)
    assert migrations.store.hand_over(name, {}) == 1
    runs = [
        threading.Thread(target=InlineEngine().finish, args=(migrations, name, 1)) for _ in range(4)
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join(20)
    for step in STEPS:
        assert step(migrations, name) is Next.GO_ON
    found = migrations.get(name)
    assert found.state is MigrationState.FINISHED and found.problem == ""
    assert set(states) == {MigrationState.COMMITTING}
    assert Path(found.images[0]).read_bytes() == disk
    assert not list(migrations.folders.path(name).glob("*.partial"))


def test_completing_with_chunks_missing_is_refused(migrations, make_plan):
    migration = migrations.create(make_plan(), "tests")
    lease = migrations.lease(migration.id, "a")
    with pytest.raises(MigrationStateError, match="3 chunks have not arrived"):
        migrations.complete(migration.id, lease, {})
    assert migrations.get(migration.id).state is MigrationState.RECEIVING


def test_completing_needs_the_lease(migrations, sent):
    with pytest.raises(MigrationBusyError):
        migrations.complete(sent[0], "another", {})


def test_a_chunk_that_reads_back_wrong_pauses_and_is_missing_again(migrations, sent, send_all):
    name, lease, disk = sent
    partial = next(migrations.folders.path(name).glob("*.partial"))
    with partial.open("r+b") as file:
        file.seek(CHUNK_SIZE)
        file.write(b"rot")
    migrations.complete(name, lease, {})
    found = migrations.get(name)
    assert found.state is MigrationState.PAUSED and found.problem_code == "verify-failed"
    assert list(migrations.missing(name)) == [1]

    lease = migrations.lease(name, "agent-a")
    send_all(migrations.join(name, lease))
    migrations.leave(name, lease)
    migrations.complete(name, lease, {})
    assert migrations.get(name).state is MigrationState.FINISHED
    assert Path(migrations.get(name).images[0]).read_bytes() == disk


@pytest.mark.parametrize("state", [MigrationState.VERIFYING, MigrationState.COMMITTING])
def test_a_crash_while_finishing_is_taken_up_by_the_next_process(migrations, sent, tmp_path, state):
    name, _, disk = sent
    migrations.store.hand_over(name, {})
    if state is MigrationState.COMMITTING:
        migrations.store.move(name, [MigrationState.VERIFYING], state)
    later = reopened(migrations, tmp_path)
    later.recover()
    assert later.get(name).state is MigrationState.FINISHED
    assert Path(later.get(name).images[0]).read_bytes() == disk


def test_a_crash_after_the_commit_and_before_its_record_is_taken_up(migrations, sent, tmp_path):
    name, _, disk = sent
    migrations.store.hand_over(name, {})
    migrations.store.move(name, [MigrationState.VERIFYING], MigrationState.COMMITTING)
    migrations._entry(migrations.get(name)).open().commit()
    later = reopened(migrations, tmp_path)
    later.recover()
    assert later.get(name).state is MigrationState.FINISHED
    assert Path(later.get(name).images[0]).read_bytes() == disk
    assert not list(later.folders.path(name).glob("*.partial"))


def test_a_finished_image_is_never_opened_for_writing_again(migrations, sent):
    name, lease, _ = sent
    migrations.complete(name, lease, {})
    image = Path(migrations.get(name).images[0])
    before = image.stat()
    for ask in (
        lambda: migrations.digests(name, 0, 0),
        lambda: migrations.missing(name),
        lambda: migrations.receiver(name),
        lambda: migrations.lease(name, "agent-a"),
        lambda: migrations.join(name, lease),
        lambda: migrations.cancel(name),
    ):
        with pytest.raises(MigrationStateError, match="finished"):
            ask()
    assert image.stat() == before


def test_what_was_received_survives_a_restart(migrations, make_plan, send_all, tmp_path):
    migration = migrations.create(make_plan(), "tests")
    send_all(migrations.receiver(migration.id))
    migrations.close()
    assert list(reopened(migrations, tmp_path).missing(migration.id)) == [0]


def test_cancelling_deletes_the_unfinished_images(migrations, sent):
    name, lease, _ = sent
    assert migrations.cancel(name).state is MigrationState.CANCELLED
    assert not migrations.folders.path(name).exists()
    with pytest.raises(MigrationStateError, match="cancelled"):
        migrations.join(name, lease)
    assert migrations.cancel(name).state is MigrationState.CANCELLED


def test_cancelling_ends_the_sessions_before_the_files_go(migrations, sent):
    name, lease, _ = sent
    order = []

    def hang_up():
        order.append(migrations.folders.path(name).exists())
        threading.Timer(0.1, migrations.leave, (name, lease, hang_up)).start()

    migrations.join(name, lease, hang_up)
    migrations.cancel(name)
    assert order == [True]
    assert not migrations.folders.path(name).exists()


def test_cancelling_stops_a_verification(migrations, sent, monkeypatch):
    name, lease, _ = sent
    reading, go_on = threading.Event(), threading.Event()
    verify = Receiver.verify

    def slow(self, progress):
        def wait(done, total):
            reading.set()
            go_on.wait(10)
            progress(done, total)

        verify(self, wait)

    monkeypatch.setattr(Receiver, "verify", slow)
    finishing = threading.Thread(target=migrations.complete, args=(name, lease, {}))
    finishing.start()
    assert reading.wait(10)
    cancelling = threading.Thread(target=migrations.cancel, args=(name,))
    cancelling.start()
    while migrations.get(name).state is not MigrationState.CANCELLED:
        pass
    assert migrations.folders.path(name).exists()
    go_on.set()
    finishing.join(10)
    cancelling.join(10)
    assert migrations.get(name).state is MigrationState.CANCELLED
    assert not migrations.folders.path(name).exists()


def test_a_folder_left_by_a_cancellation_that_was_cut_off_is_cleared(migrations, sent, tmp_path):
    name = sent[0]
    migrations.store.move(name, [MigrationState.RECEIVING], MigrationState.CANCELLED)
    later = reopened(migrations, tmp_path)
    later.recover()
    assert not later.folders.path(name).exists()


def test_recovery_clears_what_was_being_made_and_leaves_strangers_alone(migrations, tmp_path):
    (tmp_path / "migrations" / "half.new").mkdir()
    (tmp_path / "migrations" / "precious").mkdir()
    migrations.recover()
    assert not (tmp_path / "migrations" / "half.new").exists()
    assert (tmp_path / "migrations" / "precious").exists()


def test_no_room_while_committing_waits_and_goes_on(migrations, sent, monkeypatch):
    name, lease, disk = sent
    monkeypatch.setattr(engine_module, "RETRY_S", 0.01)
    commit, seen = Receiver.commit, []

    def full_at_first(self):
        seen.append(migrations.get(name))
        if len(seen) < 3:
            raise NoRoomError(path=self.folder, needed=4096)
        return commit(self)

    monkeypatch.setattr(Receiver, "commit", full_at_first)
    migrations.complete(name, lease, {})
    assert [each.problem_code for each in seen] == ["", "no-room", "no-room"]
    assert migrations.get(name).state is MigrationState.FINISHED
    assert migrations.get(name).problem == ""
    assert Path(migrations.get(name).images[0]).read_bytes() == disk


def test_a_bug_in_a_step_ends_failed_and_the_data_stays(migrations, sent, monkeypatch):
    name, lease, _ = sent
    monkeypatch.setattr(Receiver, "commit", lambda _: {}["bug"])
    migrations.complete(name, lease, {})
    assert migrations.get(name).state is MigrationState.FAILED
    assert list(migrations.folders.path(name).glob("*.partial"))


def test_an_input_output_error_pauses(migrations, sent, monkeypatch):
    name, lease, _ = sent

    def broken(*_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(Receiver, "verify", broken)
    migrations.complete(name, lease, {})
    assert migrations.get(name).state is MigrationState.PAUSED
    assert "Input/output error" in migrations.get(name).problem


def test_pausing_and_going_on_show_in_the_state(migrations, make_plan):
    name = migrations.create(make_plan(), "tests").id
    migrations.paused(name, NoRoomError(path="/srv", needed=1))
    assert migrations.get(name).state is MigrationState.PAUSED
    assert migrations.get(name).problem_code == "no-room"
    migrations.resumed(name)
    assert migrations.get(name).state is MigrationState.RECEIVING
    assert migrations.get(name).problem == ""


def test_a_pause_that_the_database_cannot_take_shows_all_the_same(
    migrations, make_plan, monkeypatch
):
    name = migrations.create(make_plan(), "tests").id
    with monkeypatch.context() as full:
        full.setattr(migrations.store, "move", _cannot_be_kept)
        with pytest.raises(StoreError):
            migrations.paused(name, NoRoomError(path="/srv", needed=1))
        for shown in (migrations.get(name), *migrations.list()):
            assert shown.state is MigrationState.PAUSED
            assert shown.problem.startswith("No room left in /srv")
            assert shown.problem_code == "no-room"
        with pytest.raises(StoreError):
            migrations.resumed(name)
        assert migrations.get(name).state is MigrationState.RECEIVING
    assert migrations.get(name).problem == ""


def _cannot_be_kept(*_, **__):
    raise StoreError(problem="database or disk is full")


def test_an_id_of_the_agents_makes_the_request_repeatable(migrations, make_plan):
    first = migrations.create(make_plan(), "tests", "my-own-id")
    assert migrations.create(make_plan(), "tests", "my-own-id") == first
    with pytest.raises(MigrationStateError, match="another plan"):
        migrations.create(make_plan(name="db01"), "tests", "my-own-id")


@pytest.mark.parametrize("name", ["../x", "a/b", "UPPER", "a b", ".", "a" * 64, "x\n"])
def test_an_id_that_could_leave_the_folder_is_refused(migrations, make_plan, name):
    with pytest.raises(UsageError, match="id"):
        migrations.create(make_plan(), "tests", name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\x", "", "\x00\n", "ÄÖ/Ü", "." * 300])
def test_hostile_names_stay_in_the_migrations_folder(migrations, make_plan, name):
    migration = migrations.create(make_plan(name=name, disks=(name,)), "tests")
    folder = migrations.folders.path(migration.id)
    assert all(Path(image).parent == folder for image in migration.images)
    assert folder.parent == migrations.folders.path("x").parent


def test_disks_whose_names_become_the_same_file_are_refused(migrations, make_plan):
    with pytest.raises(UsageError, match="two disks"):
        migrations.create(make_plan(disks=("a/sda", "b/SDA")), "tests")


def test_a_creation_that_fails_leaves_nothing(migrations, make_plan, monkeypatch, tmp_path):
    def full(*_, **__):
        raise NoRoomError(path="/srv", needed=1)

    monkeypatch.setattr("p2v.service.receiver.DigestMap.create", full)
    with pytest.raises(NoRoomError):
        migrations.create(make_plan(), "tests")
    assert list((tmp_path / "migrations").iterdir()) == []
    assert list(migrations.list()) == []


def test_unknown_migrations_disks_and_groups_are_named(migrations, make_plan):
    with pytest.raises(NoSuchMigrationError, match="nobody"):
        migrations.get("nobody")
    name = migrations.create(make_plan(), "tests").id
    with pytest.raises(NoSuchDiskError):
        migrations.digests(name, 1, 0)
    with pytest.raises(NoSuchDiskError):
        migrations.digests(name, 0, 1)


def test_digests_of_a_fresh_migration_are_one_unknown_group(migrations, make_plan):
    assert migrations.digests(migrations.create(make_plan(), "tests").id, 0, 0) == b"\0"


def test_completing_waits_for_the_last_connection(migrations, sent):
    name, lease, _ = sent
    migrations.join(name, lease)
    threading.Timer(0.2, migrations.leave, (name, lease)).start()
    migrations.complete(name, lease, {})
    assert migrations.get(name).state is MigrationState.FINISHED


def test_counters_outlive_the_receiver(migrations, sent):
    name, lease, disk = sent
    migrations.complete(name, lease, {})
    assert migrations.counters()["wire_bytes"] == len(disk)
    assert migrations.progress(name)["verified_bytes"] == len(disk)


def test_an_image_that_could_not_be_made_durable_is_opened_anew_for_the_next_agent(
    migrations, make_plan, send_all, monkeypatch
):
    def broken(_fd) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    name = migrations.create(make_plan(), "tests").id
    lease = migrations.lease(name, "agent-a")
    receiver = migrations.join(name, lease)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(ImageError):
            send_all(receiver)
    migrations.leave(name, lease)
    lease = migrations.lease(name, "agent-a")
    again = migrations.join(name, lease)
    assert again is not receiver and again.missing(0) == 3
    disk = send_all(again)
    migrations.leave(name, lease)
    migrations.complete(name, lease, {})
    found = migrations.get(name)
    assert found.state is MigrationState.FINISHED
    assert Path(found.images[0]).read_bytes() == disk
