# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from agent.stream.local import LocalConverter
from agent.stream.transfer import Options, Transfer
from agent.stream.work import blocks
from p2v.model.errors import AlreadyServedError, NoSuchMigrationError, UsageError
from p2v.model.migration import MigrationState
from p2v.service.store import Store, default_url
from tests.agent.stream.conftest import plan_of


def send(converter, migration, disk) -> None:
    transfer = Transfer(converter, migration.id, [disk], blocks(0, disk.whole), Options())
    transfer.start()
    assert transfer.wait(60)
    transfer.result()


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        LocalConverter(tmp_path / "nowhere")


def test_one_process_uses_a_folder_at_a_time(folder, converter):
    with pytest.raises(AlreadyServedError):
        LocalConverter(folder)


def test_a_folder_is_given_free(folder):
    for _ in range(2):
        LocalConverter(folder).close()


def test_an_unknown_migration(converter):
    with pytest.raises(NoSuchMigrationError):
        converter.get("nobody")


def test_the_next_process_goes_on(folder, disk):
    with closing(LocalConverter(folder)) as converter:
        migration = converter.create(plan_of(disk))
        converter.lease(migration.id)
        connection = converter.connect(migration.id)
        connection.flush(1)
        assert connection.durable() == 1
        connection.close()
    with closing(LocalConverter(folder)) as converter:
        converter.lease(migration.id)
        send(converter, migration, disk)
        converter.complete(migration.id, {"notes": ["a note"]})
        found = converter.get(migration.id)
        assert found.state is MigrationState.FINISHED and found.report == {"notes": ["a note"]}
        assert Path(found.images[0]).read_bytes() == disk.content


def test_what_was_cut_off_while_it_finished_is_finished_by_the_next_process(folder, disk):
    with closing(LocalConverter(folder)) as converter:
        migration = converter.create(plan_of(disk))
        converter.lease(migration.id)
        send(converter, migration, disk)
    store = Store(default_url(folder))
    assert store.hand_over(migration.id, {})  # and then it was killed
    store.close()
    with closing(LocalConverter(folder)) as converter:
        assert converter.get(migration.id).state is MigrationState.VERIFYING
        converter.complete(migration.id, {})
        assert converter.get(migration.id).state is MigrationState.FINISHED
