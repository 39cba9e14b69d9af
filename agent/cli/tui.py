# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent tui`: the wizard, on any terminal; or its questions line by line."""

from __future__ import annotations

import argparse
import os
import sys

from agent.job.folder import Job, list_jobs
from agent.tui.draft import Draft
from agent.tui.terminal import Terminal, look, prepare
from p2v.model.command import Subparsers
from p2v.model.errors import UsageError
from p2v.model.units import parse_size


def register(subparsers: Subparsers) -> None:
    """Add the verb's parser."""
    parser = subparsers.add_parser(
        "tui",
        help="the wizard: choose, migrate, watch",
        description="Choose what to migrate on screens, and watch it. A migration goes on when the "
        "wizard ends; the next one shows it again.",
    )
    parser.add_argument(
        "--plain", action="store_true", help="ask line by line: for screen readers and slow lines"
    )
    parser.add_argument(
        "--attach", action="store_true", help="watch the migration that runs, or ran last"
    )
    parser.add_argument(
        "--new", action="store_true", help="plan a new one, whether or not another runs"
    )
    parser.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="NAME",
        help="offer this disk, loop device or image file only; may be repeated",
    )
    parser.add_argument(
        "--bwlimit",
        type=parse_size,
        default=0,
        metavar="RATE",
        help="at most so many bytes a second on the wire (10M); it can be changed meanwhile",
    )
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII signs only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the wizard and return the exit code."""
    if not (args.plain or (sys.stdin.isatty() and sys.stdout.isatty())):
        raise UsageError(
            problem="the wizard needs a terminal; use --plain, or 'plan' and 'migrate'"
        )
    job = None if args.new else _job(args.attach)
    draft = Draft(bwlimit=args.bwlimit)
    if args.plain:
        from agent.tui.plain import ask_all

        return ask_all(job, draft, args.disk)
    terminal = look(sys.stdout.fileno(), os.environ)
    if args.ascii:
        terminal = Terminal(True, terminal.slow, terminal.colours)
    prepare(terminal, os.environ)
    from agent.tui.app import Wizard

    return Wizard(terminal, draft, job, args.disk).run(mouse=False) or 0


def _job(attach: bool) -> Job | None:
    """Return the job to show: the one that runs; with `attach` also the last that ran."""
    jobs = list_jobs()
    running = next((job for job in jobs if job.alive()), None)
    if running is not None or not attach:
        return running
    if not jobs:
        raise UsageError(problem="no migration ran here since the machine was started")
    return jobs[0]
