# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from agent import migration as migration_module
from agent.migration import migrate
from agent.stream.local import LocalConverter
from agent.stream.remote import RemoteConverter
from agent.stream.transfer import Options
from p2v.model.errors import (
    ImageError,
    MigrationBusyError,
    MigrationStateError,
    NoRoomError,
    NoSuchDiskError,
    SourceChangedError,
    UnreachableError,
    VerifyError,
)
from p2v.model.migration import MigrationState
from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.service import applier, lease
from p2v.wire.chunk import CHUNK_SIZE
from tests.agent.serving import serving

SIZE = 20 * CHUNK_SIZE + 1024


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(migration_module, "TICK_S", 0.01)
    monkeypatch.setattr(migration_module, "POLL_S", 0.02)


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "disk.img"
    noise = Random(1).randbytes(12 * CHUNK_SIZE)
    path.write_bytes(noise.ljust(SIZE, b"\0"))
    return path


@pytest.fixture
def plan(source) -> Plan:
    disk = PlannedDisk("disk.img", str(source), SIZE)
    return Plan("web01", (disk,), ImageFormat.RAW)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def converter(folder):
    with closing(LocalConverter(folder)) as converter:
        yield converter


class Troubled:
    """A converter like another one, some of whose answers are errors; they are used up in turn."""

    def __init__(self, converter, **errors) -> None:
        self._converter = converter
        self.errors = {name: list(answers) for name, answers in errors.items()}

    def __getattr__(self, name):
        real = getattr(self._converter, name)
        answers = self.errors.get(name)

        def answer(*given):
            return answers.pop(0)(*given) if answers else real(*given)

        return real if answers is None else answer


def away(*_, **__):
    raise UnreachableError(server="x", problem="gone")


def options(_plan, **changes) -> Options:
    return Options(patience_s=20, **changes)


def damage(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(3 * CHUNK_SIZE)
        file.write(b"damage")


def image_of(outcome) -> bytes:
    assert outcome.migration.state is MigrationState.FINISHED
    return Path(outcome.migration.images[0]).read_bytes()


def test_a_migration_ends_with_the_image_and_a_report(converter, plan, source):
    states = []
    outcome = migrate(converter, plan, watch=lambda state: states.append(state))
    assert image_of(outcome) == source.read_bytes()
    assert outcome.counters.durable == SIZE
    assert outcome.migration.report["read_bytes"] == outcome.counters.read
    assert outcome.unreadable == () and outcome.notes == ()
    assert states[-1].phase == "finished" and states[-1].done == states[-1].total == SIZE


def test_the_id_is_told_before_anything_is_sent(converter, plan):
    seen = []

    def started(migration) -> None:
        seen.append(migration.state)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(converter, plan, started=started)
    assert seen == [MigrationState.RECEIVING]


def test_a_disk_that_is_gone_makes_no_migration(converter, plan):
    gone = replace(plan, disks=(replace(plan.disks[0], path="/nowhere/disk.img"),))
    with pytest.raises(NoSuchDiskError):
        migrate(converter, gone)
    assert list(converter._migrations.list()) == []


def test_a_disk_of_another_size_makes_no_migration(converter, plan, source):
    with source.open("ab") as disk:
        disk.write(b"grown" * 1024)
    with pytest.raises(SourceChangedError):
        migrate(converter, plan)
    assert list(converter._migrations.list()) == []


def test_resuming_sends_only_what_is_missing_or_changed(folder, plan, source):
    with closing(LocalConverter(folder)) as converter:
        migration = converter.create(plan)
        converter.lease(migration.id)
        _interrupted(converter, plan, migration)
    with source.open("r+b") as disk:
        disk.seek(CHUNK_SIZE)
        disk.write(b"changed")
    with closing(LocalConverter(folder)) as converter:
        outcome = migrate(converter, plan, resume=migration.id)
    assert image_of(outcome) == source.read_bytes()
    assert outcome.counters.sent == CHUNK_SIZE
    assert outcome.counters.same == SIZE - CHUNK_SIZE


def _interrupted(converter, plan, migration) -> None:
    """Send everything, and end before the converter is told."""

    def never(*_):
        raise KeyboardInterrupt

    troubled = Troubled(converter, create=[lambda *_: migration], complete=[never])
    with pytest.raises(KeyboardInterrupt):
        migrate(troubled, plan)


def test_resuming_what_was_all_sent_waits_for_its_end(folder, plan, source):
    with closing(LocalConverter(folder)) as converter:
        migration = converter.create(plan)
        _interrupted(converter, plan, migration)
        assert converter._migrations.store.hand_over(migration.id, {"notes": ["a note"]})
    content = source.read_bytes()
    source.unlink()  # it is not needed any more
    for _ in range(2):  # the second time it is finished already
        with closing(LocalConverter(folder)) as converter:
            outcome = migrate(converter, plan, resume=migration.id)
        assert image_of(outcome) == content
        assert outcome.notes == ("a note",)


def test_a_resume_waits_for_a_converter_that_is_away_and_says_so(folder, plan, source):
    states = []
    with closing(LocalConverter(folder)) as converter:
        migration = converter.create(plan)
        _interrupted(converter, plan, migration)
    with closing(LocalConverter(folder)) as converter:
        troubled = Troubled(converter, get=[away] * 3, lease=[away])
        outcome = migrate(troubled, plan, resume=migration.id, watch=states.append)
    assert image_of(outcome) == source.read_bytes()
    assert [state.phase for state in states[:3]] == ["waiting"] * 3
    assert all("gone" in state.problem for state in states[:3])


def test_a_resume_does_not_wait_for_ever(converter, plan):
    troubled = Troubled(converter, get=[away] * 10**4)
    with pytest.raises(UnreachableError):
        migrate(troubled, plan, resume="web01-1", options=lambda _: Options(patience_s=0.1))


def test_what_was_cancelled_is_not_resumed(converter, plan):
    migration = converter.create(plan)
    converter._migrations.cancel(migration.id)
    with pytest.raises(MigrationStateError, match="nothing to resume"):
        migrate(converter, plan, resume=migration.id)


def test_chunks_that_the_converters_disk_lost_are_sent_again(converter, plan, source):
    complete = converter.complete

    def damaged(id, report):  # noqa: A002
        damage(Path(converter.get(id).images[0] + ".partial"))
        complete(id, report)

    outcome = migrate(Troubled(converter, complete=[damaged]), plan)
    assert image_of(outcome) == source.read_bytes()
    assert outcome.counters.sent == CHUNK_SIZE


def test_a_disk_that_loses_chunks_all_the_time_is_not_trusted(converter, plan):
    complete = converter.complete

    def damaged(id, report):  # noqa: A002
        damage(Path(converter.get(id).images[0] + ".partial"))
        complete(id, report)

    with pytest.raises(VerifyError):
        migrate(Troubled(converter, complete=[damaged] * 9), plan)


def test_digests_that_the_converter_lost_with_its_power_are_made_up_for(converter, plan, source):
    complete = converter.complete

    def forgetful(id, report):  # noqa: A002
        receiver = converter._migrations.receiver(id)
        receiver._disks[0].map.forget(2, 3)
        complete(id, report)

    outcome = migrate(Troubled(converter, complete=[forgetful]), plan)
    assert image_of(outcome) == source.read_bytes()
    assert outcome.counters.sent == 3 * CHUNK_SIZE


def test_a_failure_at_the_end_is_raised_as_what_it_is(converter, plan):
    complete = converter.complete

    def in_the_way(id, report):  # noqa: A002
        Path(converter.get(id).images[0]).write_bytes(b"in the way")
        complete(id, report)

    with pytest.raises(ImageError, match="it appeared meanwhile"):
        migrate(Troubled(converter, complete=[in_the_way]), plan)


@pytest.mark.parametrize("step", ["complete", "get"])
def test_a_converter_that_is_away_at_the_end_is_waited_for(tmp_path, plan, source, step):
    data = tmp_path / "data"
    data.mkdir()
    with (
        serving(data) as server,
        closing(RemoteConverter(server.address, server.credentials())) as converter,
    ):
        troubled = Troubled(converter, **{step: [away] * 5})
        outcome = migrate(troubled, plan, options=options)
        assert troubled.errors[step] == []
        assert image_of(outcome) == source.read_bytes()


def test_a_converter_that_stays_away_is_given_up(converter, plan):
    troubled = Troubled(converter, complete=[away] * 10000)
    with pytest.raises(UnreachableError):
        migrate(troubled, plan, options=lambda _: Options(patience_s=0.1))


def test_a_converter_that_restarts_between_sending_and_the_end(tmp_path, plan, source):
    data = tmp_path / "data"
    data.mkdir()
    with (
        serving(data) as server,
        closing(RemoteConverter(server.address, server.credentials())) as converter,
    ):
        complete = converter.complete

        def restart(id, report):  # noqa: A002
            server.stop()
            server.start()
            complete(id, report)

        outcome = migrate(Troubled(converter, complete=[restart]), plan, options=options)
        assert image_of(outcome) == source.read_bytes()


def test_a_full_store_is_waited_for_and_shown(converter, plan, source, monkeypatch):
    monkeypatch.setattr(applier, "ROOM_POLL_S", 0.05)
    monkeypatch.setattr(migration_module, "HEARTBEAT_S", 0.02)
    receivers = converter._migrations._receivers
    left = [40]

    def apply(real):
        def full(self, *frame):
            if left[0] > 0:
                left[0] -= 1
                raise NoRoomError(path="/srv", needed=5)
            return real(self, *frame)

        return full

    monkeypatch.setattr(receivers, "apply", apply(receivers.apply))
    problems = set()
    outcome = migrate(converter, plan, watch=lambda state: problems.add(state.problem))
    assert image_of(outcome) == source.read_bytes()
    assert any("No room left in /srv" in problem for problem in problems)


def test_a_resume_waits_for_the_lease_of_an_agent_that_was_killed(
    tmp_path, plan, source, monkeypatch
):
    monkeypatch.setattr(lease, "GRACE_S", 1.0)
    with serving(tmp_path) as server:
        killed = RemoteConverter(server.address, server.credentials())
        begun = killed.create(plan)
        killed.lease(begun.id)  # and is never heard of again
        states = []
        with closing(RemoteConverter(server.address, server.credentials())) as converter:
            outcome = migrate(converter, plan, resume=begun.id, watch=states.append)
        assert image_of(outcome) == source.read_bytes()
        assert states[0].phase == "waiting"
        assert "in use by another agent" in states[0].problem


def test_a_lease_that_stays_taken_ends_the_resume(tmp_path, plan, monkeypatch):
    monkeypatch.setattr(migration_module, "LEASE_WAIT_S", 0.2)
    with serving(tmp_path) as server:
        holder = RemoteConverter(server.address, server.credentials())
        begun = holder.create(plan)
        holder.lease(begun.id)
        with (
            closing(RemoteConverter(server.address, server.credentials())) as converter,
            pytest.raises(MigrationBusyError),
        ):
            migrate(converter, plan, resume=begun.id)
