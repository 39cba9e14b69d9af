# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the machine's owner that run before and after the freeze: /etc/p2v/freeze.d.

Each is called with one word: `freeze` before, in the order of their names, and `thaw` afterwards,
in the reverse order, whatever happened in between, even if the agent was killed. They make a
database write out what it holds and keep still; what they do is theirs, how long it may take is
not.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from agent.tools import environment
from native._freeze import Watchdog
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

        A watchdog (native/freeze) runs `thaw` if this process dies meanwhile.

        Raises:
            HookError: one fails or takes too long; if it was the block that failed, that is raised.
        """
        if not self.paths:
            yield
            return
        watchdog = self._watchdog()
        begun, thawed = 0, False
        try:
            try:
                for path in self.paths:
                    begun += 1
                    watchdog.command(begun)
                    _run(path, "freeze", self._timeout_s, partial(watchdog.command, begun))
                    watchdog.command(begun)
                yield
            except BaseException:
                self._thaw(begun, watchdog)
                thawed = True
                raise
            problem = self._thaw(begun, watchdog)
            thawed = True
            if problem:
                raise problem
        finally:
            watchdog.end(done=thawed)  # else it does what is left: a second Ctrl-C came meanwhile

    def _watchdog(self) -> Watchdog:
        try:
            return Watchdog((), 0, self.paths[::-1])
        except OSError as error:
            problem = f"cannot be watched over: {error.strerror}"
            raise HookError(hook=self.paths[0], problem=problem) from error

    def _thaw(self, begun: int, watchdog: Watchdog) -> HookError | None:
        """Run `thaw` of the first `begun`, even if one fails; return the first failure."""
        first = None
        for left in range(begun, 0, -1):
            watchdog.command(left)
            try:
                _run(self.paths[left - 1], "thaw", self._timeout_s)
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


def _run(
    path: Path, word: str, timeout_s: float, started: Callable[[int], None] = lambda _: None
) -> None:
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
    started(process.pid)
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
