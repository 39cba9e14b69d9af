# SPDX-License-Identifier: GPL-3.0-or-later
"""The `p2v` command: a table of verbs, each a module that is imported only when it is used.

A verb's module offers ``register(subparsers)``, which adds its parser with
``set_defaults(run=run)``, and ``run(args) -> int``, which returns the exit code. A verb with
`--json` names the option `json`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from p2v.model.command import Parser, report_error, run_command
from p2v.model.errors import UsageError

PROG = "p2v"

VERBS = {
    "serve": "run the converter that agents send their disks to",
    "pair": "print a one-time code that admits an agent",
    "migrations": "list, show or cancel migrations",
    "image": "describe, check or compare disk images",
}
"""Name and one line of help of each verb; the module is `p2v.cli.NAME`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `p2v` with `argv`, by default the process's, and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser(words).parse_args(words)
    except UsageError as error:
        return report_error(PROG, error, "--json" in words)
    return run_command(PROG, args.run, args, getattr(args, "json", False))


def _parser(words: list[str]) -> Parser:
    """Return the parser; only the verb that `words` name is imported and knows its options."""
    parser = Parser(
        prog=PROG,
        description="Moves physical servers into virtual machines.",
        epilog=f"'{PROG} VERB --help' describes a verb. Exit codes: docs/exit-codes.md.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('p2v')}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, text in VERBS.items():
        if name == chosen:
            import_module(f"p2v.cli.{name}").register(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
