# SPDX-License-Identifier: GPL-3.0-or-later
"""The `p2v-agent` command: a table of verbs, each a module that is imported only when it is used.

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

PROG = "p2v-agent"

VERBS = {
    "inventory": "show what this machine is made of",
    "plan": "print the plan of a migration, for review and for 'migrate --plan'",
    "migrate": "stream disks to a converter, or into a folder",
}
"""Name and one line of help of each verb; the module is `agent.cli.NAME`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `p2v-agent` with `argv`, by default the process's, and return its exit code."""
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
        description="Captures this physical machine's disks for a virtual machine.",
        epilog=f"'{PROG} VERB --help' describes a verb. Exit codes: docs/exit-codes.md.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('p2v')}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, text in VERBS.items():
        if name == chosen:
            import_module(f"agent.cli.{name}").register(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
