# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress on stderr: a bar on a terminal, JSON lines to anything else."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from p2v.model.command import printable

Advance = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

_LINE_EVERY_S = 1.0


def add_progress_option(parser: ArgumentParser) -> None:
    """Add `--progress` to a verb that takes its time."""
    parser.add_argument(
        "--progress",
        choices=("auto", "json", "none"),
        default="auto",
        help="on stderr: a bar on a terminal and JSON lines otherwise (auto), always lines, none",
    )


@contextmanager
def progress(mode: str, task: str) -> Iterator[Advance | None]:
    """Give what shows the progress of `task`, None where nothing shall be shown."""
    if mode == "none":
        yield None
    elif _in_lines(mode):
        yield _Lines(task)
    else:
        with _bar(task) as advance:
            yield advance


def tell_wait(mode: str, task: str, problem: str) -> None:
    """Say why a task waits and goes on by itself; with "" that it does."""
    if _in_lines(mode):
        text = json.dumps({"type": "waiting", "task": task, "problem": problem})
    elif problem:
        text = f"p2v: waiting: {printable(problem)} It goes on by itself once that is over."
    else:
        text = "p2v: going on"
    print(text, file=sys.stderr, flush=True)


def _in_lines(mode: str) -> bool:
    return mode == "json" or (mode == "auto" and not sys.stderr.isatty())


class _Lines:
    """Writes a JSON line a second, and one at the end."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + _LINE_EVERY_S
            line = {"type": "progress", "task": self._task, "done": done, "total": total}
            print(json.dumps(line), file=sys.stderr, flush=True)


@contextmanager
def _bar(task: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        number = shown.add_task(task, total=None)
        yield lambda done, total: shown.update(number, completed=done, total=total)
