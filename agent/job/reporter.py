# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the state of a job up to date while its migration runs."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from agent.cli.progress import Rate
from agent.job.controls import Controls
from agent.job.folder import Job, make_job
from agent.job.server import serving
from agent.job.state import DiskState, Failure, JobState
from agent.migration import Outcome, Progress
from p2v.model.command import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from p2v.model.errors import P2VError
from p2v.model.migration import Migration
from p2v.model.plan import Plan

WRITE_S = 1.0
_RATES = 180
"""Rates kept, one a `WRITE_S`: the curve of the last three minutes."""


class Reporter:
    """Writes the job's state about once a second, and whenever its phase changes."""

    def __init__(self, job: Job, target: str, controls: Controls) -> None:
        self._job = job
        self._controls = controls
        self._rate = Rate()
        self._rates: deque[int] = deque(maxlen=_RATES)
        self._churns: deque[int] = deque(maxlen=_RATES)
        self._next = 0.0
        self._state = JobState(name="", target=target, pid=os.getpid())
        self._write()

    def planned(self, plan: Plan) -> None:
        """Note what is to be done."""
        disks = tuple(DiskState(disk.name, disk.size) for disk in plan.disks)
        total = sum(disk.size for disk in disks)
        self._state = replace(
            self._state, name=plan.name, total=total, disks=disks, warnings=plan.warnings
        )
        self._write()

    def started(self, migration: Migration) -> None:
        """Note the migration's id."""
        self._state = replace(self._state, migration=migration.id)
        self._write()

    def show(self, progress: Progress) -> None:
        """Note where the migration stands."""
        rate, left = self._rate.add(progress)
        now = time.monotonic()
        if now < self._next and progress.phase == self._state.phase:
            return
        churn = self._churn(progress.dirty, now - self._next + WRITE_S)
        self._next = now + WRITE_S
        self._rates.append(round(rate))
        self._churns.append(round(churn))
        counters = progress.counters
        self._state = replace(
            self._state,
            phase=progress.phase,
            done=progress.done,
            total=progress.total,
            rate=rate,
            eta_s=left,
            elapsed_s=round(progress.elapsed_s, 1),
            read=counters.read,
            zero=counters.zero,
            same=counters.same,
            sent=counters.sent,
            wire=counters.wire,
            durable=counters.durable,
            reconnects=counters.reconnects,
            codec=progress.codec,
            problem=progress.problem,
            dirty=progress.dirty,
            churn=churn,
            outlook=progress.outlook.text if progress.outlook else "",
            disks=self._disks(progress),
        )
        self._write()

    def finished(self, outcome: Outcome) -> None:
        """Note that the images are there."""
        unread = tuple(f"{error} {error.way_out}" for error in outcome.unreadable)
        self._state = replace(
            self._state,
            phase=outcome.migration.state.value,
            done=self._state.total,
            images=outcome.migration.images,
            notes=(*unread, *outcome.notes),
            elapsed_s=round(outcome.seconds, 1),
            freeze_s=outcome.report.get("live", {}).get("freeze_s"),
            exit_code=outcome.exit_code,
        )
        self._write()

    def failed(self, error: BaseException) -> None:
        """Note that the migration ended without an image."""
        failure, exit_code = _failure(error)
        gone = self._controls.discard and failure.code == "stopped"
        self._state = replace(self._state, failure=failure, exit_code=exit_code, discarded=gone)
        self._write()

    def _churn(self, dirty: int | None, seconds: float) -> float:
        """Return how fast more is written; a pass that takes what waits makes it less."""
        before = self._state.dirty
        if dirty is None or before is None or seconds <= 0:
            return 0.0
        return max(0, dirty - before) / seconds

    def _disks(self, progress: Progress) -> tuple[DiskState, ...]:
        chart = progress.chart
        if chart is None or not self._state.disks:
            return self._state.disks
        return tuple(
            replace(disk, done=chart.done(index), cells=chart.cells(index))
            for index, disk in enumerate(self._state.disks)
        )

    def _write(self) -> None:
        limiter = self._controls.limiter
        self._state = replace(
            self._state,
            paused=limiter.paused,
            bwlimit=limiter.rate,
            rates=tuple(self._rates),
            churns=tuple(self._churns),
        )
        self._job.write(self._state)


def _failure(error: BaseException) -> tuple[Failure, int]:
    if isinstance(error, P2VError):
        return Failure(error.code, str(error), error.way_out), error.exit_code
    if isinstance(error, Terminated | KeyboardInterrupt):
        interrupted = isinstance(error, KeyboardInterrupt)
        code = EXIT_INTERRUPTED if interrupted else EXIT_TERMINATED
        return Failure("stopped", "The migration was stopped."), code
    bug = f"A mistake of p2v: {type(error).__name__}: {error}"
    return Failure("bug", bug, "Its traceback is in the log; please report it."), 1


@contextmanager
def reporting(job: Job | None, target: str, controls: Controls) -> Iterator[Reporter]:
    """Report what the block does in `job`, and let its control socket pull `controls`.

    Without a `job` one is made, so that a screen can attach to what a command line started.

    Raises:
        MigrationBusyError: another process carries out this job.
        UsageError: the job's folder cannot be made.
    """
    mine = make_job("cli") if job is None else job
    with mine.running(), serving(mine.socket, controls):
        reporter = Reporter(mine, target, controls)
        try:
            yield reporter
        except BaseException as error:
            reporter.failed(error)
            raise
