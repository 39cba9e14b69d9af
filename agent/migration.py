# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration from the agent's side: open the disks, send every chunk, wait for the commit.

Whatever interrupts it, the same happens the next time: the converter says what it durably has, the
disks are read again, and only what differs is sent.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from agent.capture.layout import Layout
from agent.capture.source import Source
from agent.captured import Captured, Opened, Outlook, open_offline
from agent.device import resolve
from agent.job.controls import Controls
from agent.live.cutover import When
from agent.live.method import open_running
from agent.live.settings import LiveSettings
from agent.mounts import writers_of
from agent.stream.chart import Chart
from agent.stream.converter import Converter
from agent.stream.kept import Kept
from agent.stream.lane import Counters
from agent.stream.remote import HEARTBEAT_S
from agent.stream.transfer import PATIENCE_S, Options, Transfer, lanes_for
from agent.stream.work import Block
from p2v.model.command import EXIT_WARNINGS
from p2v.model.errors import (
    MigrationBusyError,
    MigrationStateError,
    P2VError,
    ReadFailedError,
    UnreachableError,
    VerifyError,
)
from p2v.model.migration import Migration, MigrationState
from p2v.model.plan import Codec, Plan
from p2v.model.problem import error_of
from p2v.wire.digestmap import expand_group

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK_S = 0.25
POLL_S = 1.0
OUTLOOK_S = 2.0
"""How often what is to be expected is worked out anew while a pass is sent."""
CANCEL_S = 5.0
"""How long the lanes may take to end after Ctrl-C; what they had sent is safe either way."""
_SENT = (MigrationState.VERIFYING, MigrationState.COMMITTING, MigrationState.FINISHED)
_SEND_AGAIN = (VerifyError.code, MigrationStateError.code)
LEASE_WAIT_S = 20.0
"""A resume waits so long for the lease of an agent that was killed; a converter keeps it for 15."""
PASSES = ("full", "compare", "delta", "warm", "final")
"""What the passes over the disks are called; docs/live.md tells them apart."""
FOLLOWED = ("full", "compare", "delta", "warm", "waiting")
"""Phases in which what is written to the disks will be sent again."""
LOOK_S = 1.0
VERIFYING = MigrationState.VERIFYING.value
WAITING = "waiting"
"""What a live capture does until its cut-over."""
MAX_PASSES = 3
"""Passes over the disks: one, and one more each time the converter finds chunks damaged on its
disk when it reads them back. If that happens twice its disk or memory is bad."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a migration stands; sizes in bytes."""

    migration: str
    phase: str
    """What a pass is called (docs/json.md), then the state of the migration on the converter."""
    done: int
    total: int
    counters: Counters
    codec: str
    elapsed_s: float
    problem: str = ""
    """Why nothing moves, if nothing does."""
    chart: Chart | None = None
    """What happened to every part of the disks, where they are read."""
    outlook: Outlook | None = None
    """Of a live capture: what is to be expected."""
    dirty: int | None = None
    """Of a live capture: bytes that were written since they were read, and wait."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a migration."""

    migration: Migration
    counters: Counters
    seconds: float
    notes: tuple[str, ...]
    unreadable: tuple[P2VError, ...]
    report: dict[str, Any] = field(default_factory=dict)
    """How a live capture went."""

    @property
    def exit_code(self) -> int:
        """What a command ends with: the images are there, but all may not be well."""
        if self.unreadable:
            return self.unreadable[0].exit_code
        return EXIT_WARNINGS if self.migration.problem else 0


Watch = Callable[[Progress], None]


def default_options(plan: Plan) -> Options:
    """Return the options that the plan asks for; a compressed image is made of zstd frames."""
    auto = plan.codec is Codec.AUTO
    codec = Codec.ZSTD if auto and plan.compress_image else plan.codec
    return Options(codec=codec, bwlimit=plan.bwlimit)


def migrate(
    converter: Converter,
    plan: Plan,
    *,
    id: str = "",  # noqa: A002 - the word of the API
    resume: str = "",
    here: Callable[[Plan], Plan] = lambda plan: plan,
    options: Callable[[Plan], Options] = default_options,
    watch: Watch = lambda _: None,
    started: Callable[[Migration], None] = lambda _: None,
    controls: Controls | None = None,
    live: LiveSettings | None = None,
) -> Outcome:
    """Carry out `plan`, or go on with the migration `resume`, whose plan then counts.

    A new migration gets the id `id`, if one is given. `here` turns the plan of one that was begun
    on another system of the same machine into what it is on this one.
    `watch` is told how it goes a few times a second; `started` gets the migration once its id is
    known. What is asked of `controls` meanwhile is heeded. `live` says when disks that are written
    to are captured for good, and how; where that is left for later the outcome is a migration that
    still receives.

    Raises:
        P2VError: it did not finish. Unless the error says otherwise it can be resumed.
    """
    begun = time.monotonic()
    live = live or LiveSettings()
    if resume:
        found = find(converter, resume, options(plan).patience_s, watch)
        plan = here(found.plan)
        if found.state in _SENT:
            return _attach(converter, found, options(plan), watch, started)
        if found.state.final:
            raise MigrationStateError(
                id=resume, state=found.state.value, problem="there is nothing to resume"
            )
    with _open(plan, live) as captured:
        migration = converter.get(resume) if resume else converter.create(plan, id)
        started(migration)
        run = _Run(converter, migration.id, captured, options(plan), watch, begun, controls)
        run.take_lease(LEASE_WAIT_S if resume else 0.0)
        later = live.cutover.when is When.LATER
        migration, counters = run.to_the_end(compare=bool(resume), later=later)
        unreadable = _unreadable(plan, captured.sources)
        seconds = time.monotonic() - begun
        return Outcome(migration, counters, seconds, captured.notes, unreadable, captured.report())


def find(
    converter: Converter,
    id: str,  # noqa: A002
    patience_s: float = PATIENCE_S,
    watch: Watch = lambda _: None,
) -> Migration:
    """Return the migration that is to go on; wait for a converter that is away, and tell `watch`.

    Raises:
        UnreachableError: it stayed away for `patience_s`.
        P2VError: it knows no such migration, or does not know us.
    """
    begun = time.monotonic()
    while True:
        try:
            return converter.get(id)
        except UnreachableError as error:
            elapsed = time.monotonic() - begun
            if elapsed > patience_s:
                raise
            watch(Progress(id, WAITING, 0, 0, Counters(), "", elapsed, f"{error} Trying again."))
            time.sleep(POLL_S)


def _attach(
    converter: Converter,
    migration: Migration,
    options: Options,
    watch: Watch,
    started: Callable[[Migration], None],
) -> Outcome:
    """Wait for the end of a migration of which all was sent already; its disks aren't needed."""
    started(migration)
    begun = time.monotonic()
    closed = Captured([], [Layout(disk.size) for disk in migration.plan.disks])
    migration = _Run(converter, migration.id, closed, options, watch, begun).finish()
    if migration.state is not MigrationState.FINISHED:
        raise _reason(migration)
    report = migration.report
    notes = tuple(str(note) for note in report.get("notes", ()))
    unreadable = tuple(
        ReadFailedError(disk=each["disk"], bytes=each["bytes"], count=each["count"])
        for each in report.get("unreadable", ())
    )
    return Outcome(migration, Counters(), time.monotonic() - begun, notes, unreadable)


def _reason(migration: Migration) -> P2VError:
    """Return why a migration did not finish."""
    return error_of({"type": migration.problem_code or "failed", "detail": migration.problem})


def _open(plan: Plan, live: LiveSettings) -> Opened:
    """Open the plan's disks: to be followed only if somebody may write to them."""
    if plan.live and any(writers_of(resolve(disk.path)) for disk in plan.disks):
        return open_running(plan, live)
    return open_offline(plan)


def _unreadable(plan: Plan, sources: Sequence[Source]) -> tuple[P2VError, ...]:
    return tuple(
        ReadFailedError(disk=disk.path, bytes=source.bad.bytes, count=source.bad.count)
        for disk, source in zip(plan.disks, sources, strict=True)
        if source.bad.count
    )


class _Run:
    """The passes of one migration, and the wait for its commit."""

    def __init__(
        self,
        converter: Converter,
        migration: str,
        captured: Captured,
        options: Options,
        watch: Watch,
        begun: float,
        controls: Controls | None = None,
    ) -> None:
        self._converter = converter
        self._connections = Kept(converter)
        self._id = migration
        self._captured = captured
        self._options = options
        self._watch = watch
        self._begun = begun
        self._codec = ""
        self._controls = controls or Controls()
        self._controls.limiter.rate = options.bwlimit
        self._outlook: Outlook | None = None
        self._dirty: int | None = None
        self._look_at = 0.0

    def take_lease(self, patience_s: float) -> None:
        """Take the right to send; wait for it if another agent has it but sends nothing."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self._patiently(partial(self._converter.lease, self._id))
            except MigrationBusyError as error:
                sending = error.fields.get("connections", 0)
                if sending or time.monotonic() >= deadline:
                    raise
                self._tell("waiting", 0, Counters(), str(error))
                time.sleep(POLL_S)

    def to_the_end(self, *, compare: bool, later: bool) -> tuple[Migration, Counters]:
        """Capture until the converter has committed, or with `later` once; return what it took."""
        for number in range(MAX_PASSES):
            self._connections = Kept(self._converter)
            with contextlib.closing(self._connections):
                counters = self._captured.capture(self, compare=compare or number > 0)
            if later:
                return self._patiently(partial(self._converter.get, self._id)), counters
            migration = self._complete(counters)
            if migration.state is MigrationState.FINISHED:
                return migration, counters
            if migration.state.final or migration.problem_code not in _SEND_AGAIN:
                break
            log.warning("%s; sending those chunks again", migration.problem)
            self._patiently(partial(self._converter.lease, self._id))
        raise _reason(migration)

    def finish(self) -> Migration:
        """Wait for the end of a migration of which all was sent before."""
        self._patiently(partial(self._converter.complete, self._id, {}))
        return self._await_commit(Counters())

    def _complete(self, counters: Counters) -> Migration:
        """Hand over to the converter; return the migration once it needs us no more, or again."""
        report = self._report(counters)
        try:
            self._patiently(partial(self._converter.complete, self._id, report))
        except MigrationStateError as error:
            # It was killed before it could keep what it had told another agent, or us.
            migration = self._patiently(partial(self._converter.get, self._id))
            if migration.state.final or migration.state in _SENT:
                raise
            return replace(migration, problem=str(error), problem_code=error.code)
        return self._await_commit(counters)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Call `action`, again and again while the converter is away, but not for ever."""
        deadline = time.monotonic() + self._options.patience_s
        while True:
            try:
                return action()
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def send(
        self,
        phase: str,
        queue: Iterable[Block],
        total: int,
        *,
        compare: bool = False,
        announce: bool = False,
        moved: Callable[[Block], bool] = lambda _: False,
        watch: Callable[[int], None] = lambda _: None,
    ) -> Counters:
        """Send a pass: see agent.captured.Sender."""
        due = time.monotonic() + OUTLOOK_S
        transfer = Transfer(
            self._connections,
            self._id,
            self._captured.sources,
            queue,
            replace(self._options, lanes=lanes_for(total, self._options.lanes)),
            self._known if compare else None,
            limiter=self._controls.limiter,
            chart=self._captured.chart,
            moved=moved,
            announce=announce,
        )
        transfer.start()
        with self._heartbeat() as problem:
            try:
                while not transfer.wait(TICK_S):
                    codec, level = transfer.policy.choice
                    self._codec = f"{codec.name.lower()} {level}".removesuffix(" 0")
                    done = transfer.counters.handled
                    if time.monotonic() >= due:
                        watch(done)
                        due = time.monotonic() + OUTLOOK_S
                    self._tell(phase, done, transfer.counters, problem[0], total)
            except BaseException:
                transfer.cancel()
                transfer.wait(CANCEL_S)
                raise
        counters = transfer.result()
        self._tell(phase, total, counters, total=total)
        return counters

    def outlook(self, outlook: Outlook) -> None:
        """Show from now on what is to be expected."""
        self._outlook = outlook

    def wait(self, phase: str, seconds: float) -> bool:
        """Wait, and keep the migration; return whether the cut-over was asked for."""
        deadline = time.monotonic() + seconds
        with self._heartbeat() as problem:
            while (left := deadline - time.monotonic()) > 0:
                self._tell(phase, self._captured.total, Counters(), problem[0])
                if self._controls.cutover.wait(min(left, TICK_S)):
                    return True
        return self._controls.cutover.is_set()

    def _known(self, disk: int, group: int) -> bytes | None:
        body = self._converter.digests(self._id, disk, group)
        return expand_group(body, group, self._captured.layouts[disk].size)

    def _tell(
        self, phase: str, done: int, counters: Counters, problem: str = "", total: int | None = None
    ) -> None:
        captured = self._captured
        total = captured.total if total is None else total
        self._look(phase)
        for disk, source in enumerate(captured.sources):
            captured.chart.add_bad(disk, source.bad.extents)
        self._watch(
            Progress(
                migration=self._id,
                phase=phase,
                done=min(done, total),
                total=total,
                counters=counters,
                codec=self._codec,
                elapsed_s=time.monotonic() - self._begun,
                problem=problem,
                chart=captured.chart,
                outlook=self._outlook,
                dirty=self._dirty,
            )
        )

    def _look(self, phase: str) -> None:
        """See once a second what was written meanwhile; after the freeze that is of no interest."""
        if phase not in FOLLOWED:
            self._dirty = None
            for disk in range(len(self._captured.sources)):
                self._captured.chart.set_dirty(disk, ())
        elif time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._dirty = self._captured.written()

    @contextlib.contextmanager
    def _heartbeat(self) -> Iterator[list[str]]:
        """Keep the lease in the background, and hear why the converter waits, if it does."""
        problem = [""]
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                try:
                    self._converter.heartbeat(self._id)
                    state = self._converter.get(self._id)
                    problem[0] = state.problem if state.state is MigrationState.PAUSED else ""
                except (MigrationBusyError, MigrationStateError, UnreachableError) as error:
                    problem[0] = str(error)  # the lanes find out, and try again
                except P2VError as error:
                    log.warning("heartbeat: %s", error)

        thread = threading.Thread(target=beat, name="heartbeat")
        thread.start()
        try:
            yield problem
        finally:
            done.set()
            thread.join()

    def _await_commit(self, counters: Counters) -> Migration:
        """Return the migration once it is finished, failed or waits for chunks."""
        while True:
            migration = self._patiently(partial(self._converter.get, self._id))
            done, total = self._captured.total, self._captured.total
            if migration.state is MigrationState.VERIFYING and migration.verified[1]:
                done, total = migration.verified
            problem = "" if migration.state.final else migration.problem
            self._tell(migration.state.value, done, counters, problem, total)
            if migration.state.final or migration.state is MigrationState.PAUSED:
                return migration
            time.sleep(POLL_S / 4)

    def _report(self, counters: Counters) -> dict[str, Any]:
        captured = self._captured
        return {
            "seconds": round(time.monotonic() - self._begun, 3),
            "read_bytes": counters.read,
            "sent_bytes": counters.sent,
            "wire_bytes": counters.wire,
            "zero_bytes": counters.zero,
            "same_bytes": counters.same,
            "reconnects": counters.reconnects,
            "notes": list(captured.notes),
            "unreadable": [
                {
                    "disk": str(source.path),
                    "bytes": source.bad.bytes,
                    "count": source.bad.count,
                    "ranges": [[extent.offset, extent.length] for extent in source.bad.extents],
                }
                for source in captured.sources
                if source.bad.count
            ],
            **captured.report(),
        }
