# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the machine's owner that run before and after the freeze: /etc/p2v/freeze.d.

Each is called with one word: `freeze` before, in the order of their names, and `thaw` afterwards,
in the reverse order, whatever happened in between. They make a database write out what it holds
and keep still; what they do is theirs, how long it may take is not.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.tools import environment
from p2v.model.errors import HookError

FOLDER = Path("/etc/p2v/freeze.d")
TIMEOUT_S = 30.0
_WORDS_KEPT = 500


class Hooks:
    """The programs in a folder; an absent folder has none."""

    def __init__(self, folder: Path = FOLDER, timeout_s: float = TIMEOUT_S) -> None:
        """Look for them.

        Raises:
            HookError: others than root could have put one there.
        """
        self.paths = tuple(_programs(folder))
        self._timeout_s = timeout_s

    @contextmanager
    def around(self) -> Iterator[None]:
        """Run `freeze` before the block and `thaw` after it, of those whose `freeze` was begun.

        Raises:
            HookError: one fails or takes too long; if it was the block that failed, that is raised.
        """
        begun: list[Path] = []
        try:
            for path in self.paths:
                begun.append(path)
                _run(path, "freeze", self._timeout_s)
            yield
        except BaseException:
            self._thaw(begun)
            raise
        if problem := self._thaw(begun):
            raise problem

    def _thaw(self, begun: list[Path]) -> HookError | None:
        """Run `thaw` of all, even if one fails; return the first failure."""
        first = None
        for path in reversed(begun):
            try:
                _run(path, "thaw", self._timeout_s)
            except HookError as error:
                first = first or error
        return first


def _programs(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not os.access(path, os.X_OK):
            continue
        for each in (folder, path):
            status = each.stat()
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
                raise HookError(hook=path, problem=f"others than root may change {each}")
        yield path


def _run(path: Path, word: str, timeout_s: float) -> None:
    try:
        process = subprocess.Popen(
            [path, word],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise HookError(hook=path, problem=f"cannot be started: {error.strerror}") from error
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            problem = f"'{word}' took longer than {timeout_s:g} s"
            raise HookError(hook=path, problem=problem) from None
        raise
    if process.returncode:
        words = " ".join(said.decode(errors="replace").split())[-_WORDS_KEPT:]
        problem = f"'{word}' ended with {process.returncode}{': ' if words else ''}{words}"
        raise HookError(hook=path, problem=problem)
