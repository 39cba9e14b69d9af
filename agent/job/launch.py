# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a migration as a process of its own, which goes on when its starter ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.job.folder import Job, make_job
from p2v.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Target:
    """Where the images go: a converter's address or a folder here."""

    server: str = ""
    folder: str = ""

    def words(self) -> tuple[str, str]:
        """Return the option of the command line that says so."""
        return ("--server", self.server) if self.server else ("--to", self.folder)


def start_job(plan: Plan, target: Target, *, wait: bool = False) -> Job:
    """Start carrying out `plan`; with `wait` a live capture cuts over when it is told to.

    Raises:
        UsageError: the job's folder cannot be made.
    """
    job = make_job(plan.name, plan)
    cutover = ["--cutover", "wait"] if wait and plan.live else []
    _spawn(job, target, ["--plan", str(job.plan), *cutover])
    return job


def resume_job(migration: str, target: Target) -> Job:
    """Start going on with `migration`.

    Raises:
        UsageError: the job's folder cannot be made.
    """
    job = make_job(migration)
    _spawn(job, target, ["--resume", migration])
    return job


def _spawn(job: Job, target: Target, words: Sequence[str]) -> None:
    command = [*_command(), "migrate", *target.words(), *words]
    command += ["--job", str(job.path), "--progress", "none", "--json", "--verbose"]
    with job.log.open("ab") as log:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a hang-up of the terminal is not for it
            cwd="/",
        )


def _command() -> Iterator[str]:
    """Yield the words that start p2v-agent; the single-file agent is its own interpreter."""
    yield sys.executable
    if not getattr(sys, "frozen", False):
        yield from ("-m", "agent.cli.main")
