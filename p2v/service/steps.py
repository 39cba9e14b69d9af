# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
"""The steps that finish a migration: verify, commit, convert, report, deploy.

Each can be repeated from its start at any moment, by any process: it looks at the store first, and
its change of the state there is its last act. Failures end in the store, not in exceptions, so that
an engine needs no rules of its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from p2v.images.durable import write_durably
from p2v.model.document import encode
from p2v.model.errors import NoRoomError, P2VError
from p2v.model.migration import MigrationState
from p2v.service.conversion import convert_guest, not_converted

if TYPE_CHECKING:
    from p2v.service.entry import Entry
    from p2v.service.migrations import Migrations

log = logging.getLogger(__name__)

REPORT_NAME = "report.json"


class Next(StrEnum):
    """What an engine does after a step."""

    GO_ON = "go-on"
    AGAIN = "again"
    """Run the step again after a while: there was no room."""
    STOP = "stop"
    """The run is over; the store says why."""


class Cancelled(Exception):  # noqa: N818 - no failure
    """Somebody cancelled the migration while a step ran."""


Step = Callable[["Migrations", str], Next]
Work = Callable[["Migrations", str, "Entry"], None]


def _step(state: MigrationState) -> Callable[[Work], Step]:
    """Make a step of a function that works on migrations in `state`.

    The state is looked at under the lock of the migration's files: of two runs of a step one does
    the work, and the other never opens an image that is finished.
    """

    def decorate(work: Work) -> Step:
        @wraps(work)
        def step(migrations: Migrations, id: str) -> Next:
            with migrations.work(id) as entry:
                found = migrations.get(id).state
                if found is not state:
                    past = _ORDER.get(found, -1) > _ORDER[state]
                    return Next.GO_ON if past else Next.STOP
                try:
                    work(migrations, id, entry)
                except NoRoomError as error:
                    migrations.waits(id, state, error)
                    return Next.AGAIN
                except Exception as error:  # a bug too must end in the store
                    _fail(migrations, id, state, error)
                    return Next.STOP
                return Next.GO_ON

        return step

    return decorate


_ORDER = {
    MigrationState.VERIFYING: 0,
    MigrationState.COMMITTING: 1,
    MigrationState.FINISHED: 2,
}


def _fail(
    migrations: Migrations,
    id: str,
    state: MigrationState,
    error: Exception,
) -> None:
    """Say in the store why a step failed: paused, as resuming can help, unless it is a bug."""
    if isinstance(error, Cancelled):
        return
    if isinstance(error, P2VError | OSError):
        log.warning("migration %s paused: %s", id, error)
        migrations.stops(id, state, MigrationState.PAUSED, error)
        return
    log.error("migration %s failed", id, exc_info=error)
    migrations.stops(id, state, MigrationState.FAILED, error)


@_step(MigrationState.VERIFYING)
def verify(migrations: Migrations, id: str, entry: Entry) -> None:
    """Read the images back and compare them with what was sent."""

    def progress(done: int, total: int) -> None:
        entry.verified = (done, total)
        if entry.cancelled.is_set():
            raise Cancelled

    receiver = entry.open()
    receiver.checkpoint()
    receiver.verify(progress)
    if not migrations.store.move(id, [MigrationState.VERIFYING], MigrationState.COMMITTING):
        raise Cancelled


@_step(MigrationState.COMMITTING)
def commit(_migrations: Migrations, _id: str, entry: Entry) -> None:
    """Give the images their final form and names."""
    try:
        entry.open().commit()
    finally:
        entry.close()  # after a failure the files are opened anew


@_step(MigrationState.COMMITTING)
def convert(migrations: Migrations, id: str, _entry: Entry) -> None:
    """Make the guest boot as a virtual machine, as far as the plan asks for that.

    A crash leaves what `convert_guest` goes on from. The outcome lies beside the images, and is
    read from there: this step may have been another process's.
    """
    migration = migrations.get(id)
    convert_guest(migration.plan, [Path(image) for image in migration.images])


@_step(MigrationState.COMMITTING)
def report(migrations: Migrations, id: str, _entry: Entry) -> None:
    """Write down what came of it beside the images; the migration is finished."""
    found = migrations.get(id)
    problem = not_converted([Path(image) for image in found.images])
    migration = replace(found, state=MigrationState.FINISHED, problem=problem)
    body = json.dumps(encode(migration), indent=2) + "\n"
    write_durably(migrations.folders.path(id) / REPORT_NAME, body.encode())
    migrations.store.move(id, [MigrationState.COMMITTING], MigrationState.FINISHED, problem=problem)
    log.info("migration %s finished", id)


def deploy(migrations: Migrations, id: str) -> Next:
    """Make the virtual machine, where one is wanted; what comes of it changes no state."""
    migration = migrations.get(id)
    if migrations.deployer is not None and migration.state is MigrationState.FINISHED:
        migrations.deployer.run(migration)
    return Next.GO_ON


STEPS: tuple[Step, ...] = (verify, commit, convert, report, deploy)
STORING_STEPS: tuple[Step, ...] = (verify, commit, report, deploy)
"""Those of a converter on the server itself, which has no appliance: `p2v convert` comes later."""
