# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent cutover`: let a migration that waits for it freeze the disks and finish."""

from __future__ import annotations

import argparse
import json

from agent.job.folder import find_job
from agent.job.server import ask
from p2v.model.command import Subparsers, filled
from p2v.model.errors import MigrationStateError


def register(subparsers: Subparsers) -> None:
    """Add the verb's parser."""
    parser = subparsers.add_parser(
        "cutover",
        help="finish a migration that waits for it ('--cutover wait')",
        description="Tell the agent that keeps the image of a migration warm to freeze the disks "
        "and finish. It works on this machine, and goes on with or without this command.",
    )
    parser.add_argument("id", metavar="ID", type=filled, help="the migration")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    job = find_job(args.id)
    try:
        ask(job.socket, {"do": "cutover"})
    except (OSError, ValueError) as error:
        raise MigrationStateError(id=args.id, state="not to be reached", problem=error) from error
    if args.json:
        print(json.dumps({"schema": 1, "migration": args.id, "cutover": "asked for"}))
    else:
        print(f"migration {args.id}: the cut-over was asked for")
    return 0
