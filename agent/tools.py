# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to run an external program."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from p2v.model.errors import ToolError

_STDERR_KEPT = 2000  # characters in a message; programs repeat themselves when a disk is bad
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # absent from an ordinary user's PATH


def environment() -> dict[str, str]:
    """Return the environment for external programs: untranslated, and with the system's tools."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {**os.environ, "LC_ALL": "C", "PATH": f"{path}:{_SYSTEM_PATH}"}


def run(
    argv: Sequence[str],
    timeout_s: float = 30,
    *,
    accept: Sequence[int] = (0,),
    stdin: bytes = b"",
) -> bytes:
    """Run `argv` and return its standard output.

    Raises:
        ToolError: the program is missing, took longer than `timeout_s` seconds (it is killed), or
            ended with a status outside `accept`; the message holds its last words.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            env=environment(),
            check=False,
        )
    except FileNotFoundError:
        raise ToolError(tool=argv[0], problem="the program is not installed") from None
    except subprocess.TimeoutExpired:
        raise ToolError(tool=argv[0], problem=f"no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise ToolError(tool=argv[0], problem=f"cannot be started: {error.strerror}") from error
    if done.returncode not in accept:
        raise failure(argv[0], done.returncode, done.stderr)
    return done.stdout


def failure(tool: str, status: int, stderr: bytes) -> ToolError:
    """Return the error for a program that ended with `status` after saying `stderr`."""
    said = " ".join(stderr.decode(errors="replace").split())[-_STDERR_KEPT:]
    ending = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return ToolError(tool=tool, problem=f"{ending}: {said}" if said else ending)


@contextmanager
def output(argv: Sequence[str]) -> Iterator[IO[bytes]]:
    """Run `argv` and give its standard output as a stream, for output that may be huge.

    The stream must be read to its end for the program to count as having succeeded; leaving the
    block early kills it.

    Raises:
        ToolError: the program is missing, or at the end of the block: it failed.
    """
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(),
            )
        except FileNotFoundError:
            raise ToolError(tool=argv[0], problem="the program is not installed") from None
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        try:
            with process.stdout:
                yield process.stdout
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status := process.wait():
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_KEPT))
            raise failure(argv[0], status, stderr.read())
