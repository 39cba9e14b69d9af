# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command runs and ends: one parser class and one runner for both command lines."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from keyword import iskeyword
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeAlias

from p2v.model.errors import P2VError, UsageError

EXIT_WARNINGS = 3
"""It was done, and something is to be looked at."""
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM arrived; derived like KeyboardInterrupt so that no `except Exception` swallows it."""


class _Actions(argparse._SubParsersAction):  # type: ignore[type-arg] # generic in typeshed only
    """Words that choose a parser; each describes itself by its line in the list of them."""

    def add_parser(self, name: str, **more: Any) -> Parser:
        text = more.get("help", "")
        more.setdefault("description", f"{text[:1].upper()}{text[1:]}." if text else None)
        parser: Parser = super().add_parser(name, **more)
        return parser


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UsageError`s, so that they end like any other."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.register("action", "parsers", _Actions)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the command line.

        Raises:
            UsageError: always.
        """
        raise UsageError(problem=f"{message} (see '{self.prog} --help')")


def filled(text: str) -> str:
    """Return an argument that must say something, for argparse.

    Raises:
        ArgumentTypeError: it is empty, as a script's variable is that was never set.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def file_path(text: str) -> Path:
    """Return a path, for argparse; an empty one would be the current folder.

    Raises:
        ArgumentTypeError: it is empty.
    """
    return Path(filled(text))


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What a verb's `register` adds its parser to."""


def run_verbs(
    prog: str, description: str, verbs: Mapping[str, str], package: str, argv: Sequence[str] | None
) -> int:
    """Run the verb that `argv` (by default the process's words) names; return the exit code.

    `verbs` gives each verb's one line of help. The verb NAME is the module ``package.NAME``, which
    is imported only when it is used. It offers ``register(subparsers)``, which adds its parser
    with ``set_defaults(run=run)``, and ``run(args) -> int``, which returns the exit code; a verb
    with `--json` names the option `json`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(
        prog=prog,
        description=description,
        epilog=f"'{prog} VERB --help' describes a verb. Exit codes: docs/exit-codes.md.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('p2v')}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, text in verbs.items():
        if name == chosen:
            import_module(f"{package}.{_module(name)}").register(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    try:
        args, unknown = parser.parse_known_args(words)
        if unknown:
            what = printable(" ".join(unknown))
            raise UsageError(problem=f"unknown: {what} (see '{prog} {chosen} --help')")
    except UsageError as error:
        return report_error(prog, error, "--json" in words)
    return run_command(prog, args.run, args, getattr(args, "json", False))


def _module(verb: str) -> str:
    """Return the name of a verb's module; a word of Python's own gets an underscore (PEP 8)."""
    return f"{verb}_" if iskeyword(verb) else verb


def run_command(
    prog: str,
    func: Callable[[argparse.Namespace], int],
    args: argparse.Namespace,
    json_output: bool,
) -> int:
    """Call ``func(args)`` and return the exit code of the process.

    A `P2VError` becomes one line and its hint on stderr, or with `json_output` one JSON object on
    stdout (docs/json.md). Ctrl-C, SIGTERM and a reader that went away end quietly with 128 plus
    the signal's number. Anything else is a bug and keeps its traceback.
    """
    try:
        with _terminable():
            code = func(args)
            sys.stdout.flush()
            return code
    except P2VError as error:
        return report_error(prog, error, json_output)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    except BrokenPipeError:
        if not _stdout_is_broken():
            raise
        return EXIT_BROKEN_PIPE


def report_error(prog: str, error: P2VError, json_output: bool) -> int:
    """Print the error as `run_command` does and return its exit code."""
    if json_output:
        print(json.dumps({"error": error_document(error)}, default=str))
    else:
        print(f"{prog}: error: {printable(str(error))}", file=sys.stderr)
        if error.way_out:
            print(f"  {printable(error.way_out)}", file=sys.stderr)
    return error.exit_code


def error_document(error: P2VError) -> dict[str, object]:
    """Return the error as a JSON object: its fields beside `code`, `message` and `hint`."""
    fixed = {"code": error.code, "message": str(error), "hint": error.way_out}
    return {**error.fields, **fixed, "exit_code": error.exit_code}


def printable(text: str) -> str:
    """Return `text` with what could steer a terminal escaped: names on disks are hostile."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _stdout_is_broken() -> bool:
    """Return whether stdout is the pipe that broke; if so, detach it for the interpreter's exit."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return True


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` while the block runs, so that `finally` clauses do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
