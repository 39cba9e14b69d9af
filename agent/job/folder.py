# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a job: its plan, state, log and control socket.

It lies under /run, a file system of memory: a job writes there while the disks' own file systems
are frozen, and a reboot, which ends every job, takes it away.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.job.state import JobState
from p2v.model import planfile
from p2v.model.errors import MigrationBusyError, NoSuchMigrationError, UsageError
from p2v.model.plan import Plan

_SLUG = re.compile(r"[^a-z0-9]+")
_KEPT = 20
"""Jobs that are over, kept to be looked at."""
_TAIL = 64 << 10
"""Bytes of the log's end that are read."""


def jobs_folder() -> Path:
    """Return the folder of all jobs; the environment's P2V_JOBS overrides it."""
    if chosen := os.environ.get("P2V_JOBS"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/p2v/jobs")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or Path.home() / ".cache") / "p2v" / "jobs"


@dataclass(frozen=True, slots=True)
class Job:
    """A job, running or over, by its folder."""

    path: Path

    @property
    def plan(self) -> Path:
        """The plan that it carries out."""
        return self.path / "plan.toml"

    @property
    def socket(self) -> Path:
        """Where it takes requests (agent.job.server)."""
        return self.path / "control"

    @property
    def log(self) -> Path:
        """What it and its libraries say."""
        return self.path / "log"

    def state(self) -> JobState | None:
        """Return what the job said last; None before it said anything."""
        try:
            return JobState.from_json(json.loads((self.path / "state.json").read_text()))
        except (OSError, ValueError, UsageError):
            return None

    def write(self, state: JobState) -> None:
        """Replace what the job says of itself."""
        fresh = self.path / "state.new"
        fresh.write_text(json.dumps(state.to_json()))
        fresh.replace(self.path / "state.json")

    def alive(self) -> bool:
        """Return whether its process runs; a lock tells, which no death leaves behind."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the job's process while the block runs.

        Raises:
            MigrationBusyError: another process is.
            UsageError: its folder cannot be used.
        """
        try:
            lock = (self.path / "lock").open("wb")
        except OSError as error:
            problem = f"the job's folder {self.path} cannot be used: {error.strerror}"
            raise UsageError(problem=problem) from None
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MigrationBusyError(id=self.path.name, agent="here", seconds=0) from None
            yield

    def log_lines(self, count: int) -> list[str]:
        """Return the last lines of the log."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL))
                return file.read().decode(errors="replace").splitlines()[-count:]
        except OSError:
            return []


def make_job(name: str, plan: Plan | None = None) -> Job:
    """Make the folder of a new job, with the plan that it will carry out.

    Raises:
        UsageError: the folder cannot be made.
    """
    for old in [job for job in list_jobs() if not job.alive()][_KEPT:]:
        shutil.rmtree(old.path, ignore_errors=True)
    slug = _SLUG.sub("-", name.lower()).strip("-")[:40] or "job"
    folder = jobs_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        job = Job(Path(tempfile.mkdtemp(prefix=f"{slug}-", dir=folder)))
    except OSError as error:
        raise UsageError(
            problem=f"{folder} cannot be used: {error.strerror}; set P2V_JOBS to another folder"
        ) from None
    if plan is not None:
        job.plan.write_text(planfile.dump(plan))
    return job


def list_jobs() -> list[Job]:
    """Return all jobs of this machine since it was started, newest first."""
    try:
        found = [(path.stat().st_mtime, path) for path in jobs_folder().iterdir()]
    except OSError:
        return []
    return [Job(path) for _, path in sorted(found, reverse=True)]


def find_job(migration: str) -> Job:
    """Return the running job that sends `migration`.

    Raises:
        NoSuchMigrationError: none does on this machine.
    """
    for job in list_jobs():
        state = job.state()
        if state is not None and state.migration == migration and job.alive():
            return job
    raise NoSuchMigrationError(id=migration)
