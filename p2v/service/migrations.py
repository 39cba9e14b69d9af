# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
"""The migrations of one converter: the one place where their state changes.

The API, the data sessions and the embedded converter all go through `Migrations`. What must
survive a crash is in the store and in each migration's folder before a call returns; leases,
connections and open files are not, and are had anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2v.model.errors import MigrationStateError, P2VError
from p2v.model.migration import Migration, MigrationState
from p2v.model.plan import Plan
from p2v.service import auth
from p2v.service.engine import Engine
from p2v.service.entry import Entry, Receivers
from p2v.service.folders import EVIDENCE_NAME, Folders
from p2v.service.intake import check_id, check_plan, check_report, new_id
from p2v.service.lease import HangUp
from p2v.service.receiver import Receiver
from p2v.service.store import Event, Store

if TYPE_CHECKING:
    from p2v.service.deploy import Deployer

log = logging.getLogger(__name__)

DRAIN_S = 10.0
"""How long an agent's data connections may take to end after it said that it is done."""

_OPEN = (MigrationState.RECEIVING, MigrationState.PAUSED)
_FINISHING = (MigrationState.VERIFYING, MigrationState.COMMITTING)


class Migrations:
    """The registry. Thread-safe. `data` is the converter's folder, already there."""

    def __init__(
        self, data: Path, store: Store, engine: Engine, receivers: Receivers = Receiver
    ) -> None:
        self.store = store
        self.folders = Folders(data / "migrations", receivers)
        self.deployer: Deployer | None = None
        """Makes virtual machines of finished images; an embedded converter has none."""
        self._engine = engine
        self._receivers = receivers
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._unnoted: dict[str, P2VError | str] = {}
        """Why a migration waits, where the database can't be told: it may be on the full disk."""

    # --- making and looking

    def create(self, plan: Plan, owner: str, id: str | None = None) -> Migration:
        """Make the images for `plan`; with an `id` that exists for this plan, return that one.

        Raises:
            UsageError: images can't be made for the plan, or the id is none.
            MigrationStateError: the id belongs to another plan.
            NoRoomError: the store is full.
        """
        check_plan(plan)
        name = check_id(id) if id else new_id(plan.name)
        with self._making:
            if known := self.store.find(name):
                if known.plan != plan:
                    raise MigrationStateError(
                        id=name, state=known.state.value, problem="it belongs to another plan"
                    )
                return known
            images = self.folders.make(name, plan)
            now = time.time()
            state = MigrationState.RECEIVING
            migration = Migration(name, plan, state, now, now, owner=owner, images=images)
            self.store.add(migration)
        log.info("migration %s created by %s", name, owner or "nobody")
        return migration

    def get(self, id: str) -> Migration:
        """Return a migration.

        Raises:
            NoSuchMigrationError: there is none.
        """
        return self._as_it_is(self.store.get(id))

    def list(self, owner: str = "") -> Sequence[Migration]:
        """Return all migrations, or those of `owner`, newest first."""
        return [self._as_it_is(each) for each in self.store.migrations(owner=owner)]

    def events(self, id: str) -> Sequence[Event]:
        """Return what happened to a migration, oldest first.

        Raises:
            NoSuchMigrationError: there is none.
        """
        self.store.get(id)
        return self.store.events(id)

    def digests(self, id: str, disk: int, group: int) -> bytes:
        """Return a group of a disk's digest map as docs/wire.md lays it out.

        Raises:
            NoSuchMigrationError, NoSuchDiskError: there is none.
            MigrationStateError: the migration takes no data any more.
        """
        with self._reading(id) as receiver:
            return receiver.digests(disk, group)

    def missing(self, id: str) -> Sequence[int]:
        """Return for each disk how many chunks have not arrived durably.

        Raises:
            NoSuchMigrationError, MigrationStateError: like `digests`.
        """
        with self._reading(id) as receiver:
            return [receiver.missing(disk) for disk in range(len(receiver.sizes))]

    def receiver(self, id: str) -> Receiver:
        """Return the receiver of a migration that takes data, opened if need be.

        Raises:
            NoSuchMigrationError, MigrationStateError: like `digests`.
        """
        with self._reading(id) as receiver:
            return receiver

    # --- agents

    def authorise(self, token: str) -> auth.Principal:
        """Return who holds `token`.

        Raises:
            AuthError: nobody.
        """
        return auth.authorise(self.store, token)

    def lease(self, id: str, agent: str) -> str:
        """Give the right to send to `agent`; return the lease to be shown with each connection.

        Raises:
            MigrationBusyError: another agent has it.
            MigrationStateError: the migration takes no data any more.
        """
        entry = self._entry(self._expect(id, _OPEN))
        lease = entry.lease.take(agent)
        entry.renew()
        return lease

    def heartbeat(self, id: str, lease: str) -> Migration:
        """Keep a lease for a while more; return the migration as it stands.

        Raises:
            MigrationBusyError, MigrationStateError: the lease is lost.
        """
        migration = self.get(id)
        if migration.state in _OPEN:
            self._entry(migration).lease.check(lease)
        return migration

    def release(self, id: str, lease: str) -> None:
        """Give a lease back at once; its connections are ended.

        Raises:
            MigrationBusyError, MigrationStateError: it is not held.
        """
        self._entry(self.get(id)).lease.release(lease)

    def join(self, id: str, lease: str, hang_up: HangUp | None = None, lane: str = "") -> Receiver:
        """Count a data connection in and return what it writes to; see `Lease.join` of `lane`.

        Raises:
            NoSuchMigrationError, MigrationStateError, MigrationBusyError: it may not send.
        """
        entry = self._entry(self.get(id))
        entry.lease.join(lease, hang_up, lane)
        try:
            self._expect(id, _OPEN)
            receiver = entry.open()
            self.resumed(id)
        except BaseException:
            entry.lease.leave(hang_up)
            raise
        return receiver

    def leave(self, id: str, lease: str, hang_up: HangUp | None = None) -> None:
        """Count a data connection out; never fails, not even for want of the database."""
        with self._lock:
            entry = self._entries[id]
        entry.lease.leave(hang_up)

    def paused(self, id: str, problem: P2VError | str) -> None:
        """Note that no data can be taken for now, and why.

        Raises:
            StoreError: this process knows it now, but the database does not.
        """
        self._unnoted[id] = problem
        self.stops(id, MigrationState.RECEIVING, MigrationState.PAUSED, problem)
        self._unnoted.pop(id, None)

    def resumed(self, id: str) -> None:
        """Note that data is taken again."""
        self._unnoted.pop(id, None)
        self.store.move(id, [MigrationState.PAUSED], MigrationState.RECEIVING)

    def keep_evidence(self, id: str, bundle: bytes) -> None:
        """Keep what an agent says of its machine in the migration's folder, durably.

        Raises:
            NoSuchMigrationError: there is none.
            MigrationStateError: it was cancelled; its folder is gone.
            NoRoomError: the store is full.
        """
        if self.get(id).state is MigrationState.CANCELLED:
            raise MigrationStateError(id=id, state="cancelled", problem="nothing of it is kept")
        self.folders.keep(id, EVIDENCE_NAME, bundle)

    # --- the end

    def complete(self, id: str, lease: str, report: dict[str, Any]) -> None:
        """Take the agent's word that all was sent, and hand over to the engine.

        A second call for a migration that is past this is harmless: the answer to the first may
        have been lost, or the engine's database failed.

        Raises:
            MigrationBusyError: another agent has the lease.
            MigrationStateError: chunks are missing, connections are open, or it was cancelled.
            UsageError: the report can't be kept.
        """
        check_report(report)
        migration = self.get(id)
        if migration.state is MigrationState.FINISHED:
            return
        if migration.state in _FINISHING:
            self._engine.finish(self, id, self.store.attempt(id))
            return
        entry = self._entry(self._expect(id, _OPEN))
        entry.lease.check(lease)
        if not (entry.lease.wait_idle(DRAIN_S) or entry.lease.hang_up()):
            raise MigrationStateError(
                id=id, state=migration.state.value, problem="its data connections are still open"
            )
        with entry.reading:
            receiver = entry.open()
            receiver.checkpoint()
        if missing := sum(self.missing(id)):
            raise MigrationStateError(
                id=id,
                state=migration.state.value,
                problem=f"{missing} chunks have not arrived; resume it to send them",
            )
        if attempt := self.store.hand_over(id, report):
            entry.verified = (0, 0)
            self._engine.finish(self, id, attempt)

    def cancel(self, id: str) -> Migration:
        """End a migration for good and delete its unfinished images.

        Raises:
            NoSuchMigrationError: there is none.
            MigrationStateError: it is finished, or about to be.
        """
        migration = self.get(id)
        if migration.state is MigrationState.CANCELLED:
            return migration
        sources = (*_OPEN, MigrationState.VERIFYING, MigrationState.FAILED)
        if not self.store.move(id, sources, MigrationState.CANCELLED):
            raise MigrationStateError(
                id=id,
                state=self.get(id).state.value,
                problem="finished images are not taken back; delete them by hand",
            )
        entry = self._entry(migration)
        entry.cancelled.set()
        # If a session won't end, the next start of the converter clears the folder.
        if entry.lease.hang_up():
            with entry.work:
                entry.close()
                self.folders.remove(id)
        log.info("migration %s cancelled", id)
        return self.get(id)

    def finish_again(self, id: str) -> None:
        """Run the steps of a finished migration once more: a machine is to be made of it."""
        self._engine.finish(self, id, self.store.attempt_again(id))

    def recover(self) -> None:
        """Take up what an earlier process left: call once, when the engine can work."""
        for migration in self.store.migrations([MigrationState.CANCELLED]):
            self.folders.remove(migration.id)
        self.folders.sweep({migration.id for migration in self.store.migrations()})
        for migration in self.store.migrations(_FINISHING):
            self._engine.finish(self, migration.id, self.store.attempt(migration.id))

    def close(self) -> None:
        """End all sessions, make durable what was received, and close the images."""
        with self._lock:
            entries = tuple(self._entries.items())
        for name, entry in entries:
            if not entry.lease.hang_up() or not entry.work.acquire(blocking=False):
                continue  # still in use: it is safe as it is, like after a loss of power
            try:
                entry.suspend()
            except (P2VError, OSError) as error:
                log.warning("migration %s: last checkpoint failed: %s", name, error)
            finally:
                entry.work.release()

    # --- for the steps

    @contextmanager
    def work(self, id: str) -> Iterator[Entry]:
        """Hold the migration's files for a step."""
        entry = self._entry(self.get(id))
        with entry.work:
            yield entry

    def waits(self, id: str, state: MigrationState, error: P2VError) -> None:
        """Note why a step must wait; once, however often it is tried again."""
        if self.get(id).problem != str(error):
            self.stops(id, state, state, error)

    def stops(
        self,
        id: str,
        source: MigrationState,
        target: MigrationState,
        problem: Exception | str,
    ) -> None:
        """Take a migration from `source` to `target` because of `problem`."""
        self.store.move(id, [source], target, problem=str(problem), problem_code=_code_of(problem))

    # --- figures

    def sessions(self) -> int:
        """Return how many data connections are open."""
        with self._lock:
            return sum(entry.lease.connections for entry in self._entries.values())

    def progress(self, id: str) -> dict[str, int]:
        """Return the counters of a migration in this process, bytes; empty if it was idle."""
        with self._lock:
            entry = self._entries.get(id)
        if entry is None:
            return {}
        done, total = entry.verified
        connections = entry.lease.connections
        figures = {"connections": connections, "verified_bytes": done, "verify_bytes": total}
        return entry.counters() | figures

    def counters(self) -> dict[str, int]:
        """Return the sums of all receivers' counters since this process began."""
        with self._lock:
            entries = tuple(self._entries.values())
        total: dict[str, int] = {}
        for entry in entries:
            for key, value in entry.counters().items():
                total[key] = total.get(key, 0) + value
        return total

    # --- inside

    def _as_it_is(self, migration: Migration) -> Migration:
        """Return a migration with the pause that its database does not know of."""
        problem = self._unnoted.get(migration.id)
        if problem is None or migration.state is not MigrationState.RECEIVING:
            return migration
        code = _code_of(problem)
        state = MigrationState.PAUSED
        return replace(migration, state=state, problem=str(problem), problem_code=code)

    def _expect(self, id: str, states: Sequence[MigrationState]) -> Migration:
        migration = self.get(id)
        if migration.state not in states:
            raise MigrationStateError(
                id=id, state=migration.state.value, problem="it takes no data any more"
            )
        return migration

    def _entry(self, migration: Migration) -> Entry:
        with self._lock:
            entry = self._entries.get(migration.id)
            if entry is None:
                folder = self.folders.path(migration.id)
                entry = Entry(migration.id, folder, migration.plan, self._receivers)
                self._entries[migration.id] = entry
            return entry

    @contextmanager
    def _reading(self, id: str) -> Iterator[Receiver]:
        entry = self._entry(self._expect(id, _OPEN))
        with entry.reading:
            self._expect(id, _OPEN)
            yield entry.open()


def _code_of(problem: Exception | str) -> str:
    return problem.code if isinstance(problem, P2VError) else ""
