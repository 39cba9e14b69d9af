# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent sync`: bring the image of a migration up to date, now or after a reboot."""

from __future__ import annotations

from agent.cli import migrate
from p2v.model.command import Subparsers, filled


def register(subparsers: Subparsers) -> None:
    """Add the verb's parser."""
    parser = subparsers.add_parser(
        "sync",
        help="bring the image of a migration up to date",
        description="Compare the disks with the image of an unfinished migration and send what "
        "differs: later, after a reboot, or from the p2v ISO. The image stays unfinished until a "
        "run with '--cutover now'.",
    )
    parser.add_argument("resume", metavar="ID", type=filled, help="the migration")
    migrate.add_run_options(parser, cutover="later")
    parser.set_defaults(run=migrate.run, plan=None, dry_run=False)
