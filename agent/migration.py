# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration from the agent's side: open the disks, send every chunk, wait for the commit.

Whatever interrupts it, the same happens the next time: the converter says what it durably has, the
disks are read again, and only what differs is sent.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from agent.capture.holes import without_holes
from agent.capture.layout import Layout, prepare
from agent.capture.source import Source
from agent.job.controls import Controls
from agent.stream.chart import Chart
from agent.stream.converter import Converter
from agent.stream.lane import Counters
from agent.stream.remote import HEARTBEAT_S
from agent.stream.transfer import Options, Transfer
from agent.stream.work import Block, Known, blocks
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
CANCEL_S = 5.0
"""How long the lanes may take to end after Ctrl-C; what they had sent is safe either way."""
_SENT = (MigrationState.VERIFYING, MigrationState.COMMITTING, MigrationState.FINISHED)
_SEND_AGAIN = (VerifyError.code, MigrationStateError.code)
LEASE_WAIT_S = 20.0
"""A resume waits so long for the lease of an agent that was killed; a converter keeps it for 15."""
MAX_PASSES = 3
"""Passes over the disks: one, and one more each time the converter finds chunks damaged on its
disk when it reads them back. If that happens twice its disk or memory is bad."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a migration stands; sizes in bytes."""

    migration: str
    phase: str
    """"full" while the disks are read, then the state of the migration on the converter."""
    done: int
    total: int
    counters: Counters
    codec: str
    elapsed_s: float
    problem: str = ""
    """Why nothing moves, if nothing does."""
    chart: Chart | None = None
    """What happened to every part of the disks, where they are read."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a migration."""

    migration: Migration
    counters: Counters
    seconds: float
    notes: tuple[str, ...]
    unreadable: tuple[P2VError, ...]


Watch = Callable[[Progress], None]


@dataclass
class _Captured:
    """The disks of a plan, open, with what to do with their chunks."""

    sources: list[Source]
    layouts: list[Layout]
    total: int = field(init=False)
    chart: Chart = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(layout.size for layout in self.layouts)
        self.chart = Chart([layout.size for layout in self.layouts])

    def blocks(self) -> Iterator[Block]:
        return itertools.chain.from_iterable(
            blocks(index, without_holes(layout.pieces(), source))
            for index, (layout, source) in enumerate(zip(self.layouts, self.sources, strict=True))
        )


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
) -> Outcome:
    """Carry out `plan`, or go on with the migration `resume`, whose plan then counts.

    A new migration gets the id `id`, if one is given. `here` turns the plan of one that was begun
    on another system of the same machine into what it is on this one.
    `watch` is told how it goes a few times a second; `started` gets the migration once its id is
    known. What is asked of `controls` meanwhile is heeded.

    Raises:
        P2VError: it did not finish. Unless the error says otherwise it can be resumed.
    """
    begun = time.monotonic()
    if resume:
        found = converter.get(resume)
        plan = here(found.plan)
        if found.state in _SENT:
            return _attach(converter, found, options(plan), watch, started)
        if found.state.final:
            raise MigrationStateError(
                id=resume, state=found.state.value, problem="there is nothing to resume"
            )
    with _open(plan) as captured:
        migration = converter.get(resume) if resume else converter.create(plan, id)
        started(migration)
        run = _Run(converter, migration.id, captured, options(plan), watch, begun, controls)
        run.take_lease(LEASE_WAIT_S if resume else 0.0)
        migration, counters = run.to_the_end(compare=bool(resume))
        unreadable = _unreadable(plan, captured.sources)
        notes = tuple(note for layout in captured.layouts for note in layout.notes)
    return Outcome(migration, counters, time.monotonic() - begun, notes, unreadable)


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
    closed = _Captured([], [Layout(disk.size) for disk in migration.plan.disks])
    migration = _Run(converter, migration.id, closed, options, watch, begun).wait()
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


@contextlib.contextmanager
def _open(plan: Plan) -> Iterator[_Captured]:
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(Source(disk.path, live=plan.live)) for disk in plan.disks]
        layouts = [
            prepare(disk, source, plan.all_blocks)
            for disk, source in zip(plan.disks, sources, strict=True)
        ]
        yield _Captured(sources, layouts)


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
        captured: _Captured,
        options: Options,
        watch: Watch,
        begun: float,
        controls: Controls | None = None,
    ) -> None:
        self._converter = converter
        self._id = migration
        self._captured = captured
        self._options = options
        self._watch = watch
        self._begun = begun
        self._codec = ""
        self._limiter = (controls or Controls()).limiter
        self._limiter.rate = options.bwlimit

    def take_lease(self, patience_s: float) -> None:
        """Take the right to send; wait for it if another agent has it but sends nothing."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self._converter.lease(self._id)
            except MigrationBusyError as error:
                sending = error.fields.get("connections", 0)
                if sending or time.monotonic() >= deadline:
                    raise
                self._tell("waiting", 0, Counters(), str(error))
                time.sleep(POLL_S)

    def to_the_end(self, *, compare: bool) -> tuple[Migration, Counters]:
        """Send passes until the converter has committed; return the last one's counters."""
        for number in range(MAX_PASSES):
            counters = self._pass(self._known if compare or number else None)
            migration = self._complete(counters)
            if migration.state is MigrationState.FINISHED:
                return migration, counters
            if migration.state.final or migration.problem_code not in _SEND_AGAIN:
                break
            log.warning("%s; sending those chunks again", migration.problem)
            self._patiently(partial(self._converter.lease, self._id))
        raise _reason(migration)

    def wait(self) -> Migration:
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

    def _pass(self, known: Known | None) -> Counters:
        transfer = Transfer(
            self._converter,
            self._id,
            self._captured.sources,
            self._captured.blocks(),
            self._options,
            known,
            limiter=self._limiter,
            chart=self._captured.chart,
        )
        transfer.start()
        with self._heartbeat() as problem:
            try:
                while not transfer.wait(TICK_S):
                    codec, level = transfer.policy.choice
                    self._codec = f"{codec.name.lower()} {level}".removesuffix(" 0")
                    self._tell("full", transfer.counters.handled, transfer.counters, problem[0])
            except BaseException:
                transfer.cancel()
                transfer.wait(CANCEL_S)
                raise
        counters = transfer.result()
        self._tell("full", self._captured.total, counters)
        return counters

    def _known(self, disk: int, group: int) -> bytes | None:
        body = self._converter.digests(self._id, disk, group)
        return expand_group(body, group, self._captured.layouts[disk].size)

    def _tell(self, phase: str, done: int, counters: Counters, problem: str = "") -> None:
        captured = self._captured
        for disk, source in enumerate(captured.sources):
            captured.chart.add_bad(disk, source.bad.extents)
        self._watch(
            Progress(
                migration=self._id,
                phase=phase,
                done=min(done, captured.total),
                total=captured.total,
                counters=counters,
                codec=self._codec,
                elapsed_s=time.monotonic() - self._begun,
                problem=problem,
                chart=captured.chart,
            )
        )

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
            self._tell(migration.state.value, self._captured.total, counters, migration.problem)
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
            "notes": [note for layout in captured.layouts for note in layout.notes],
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
        }
