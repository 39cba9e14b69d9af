# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent inventory`: what this machine is made of (the document: docs/inventory.md)."""

from __future__ import annotations

import argparse
import json
import math

from agent.inventory.collect import collect
from p2v.model.command import Subparsers
from p2v.model.errors import UsageError

_MAX_WINDOW_S = 3600


def register(subparsers: Subparsers) -> None:
    """Add `inventory`."""
    parser = subparsers.add_parser(
        "inventory",
        help="show what this machine is made of",
        description="Show hardware, disks, what they hold, and the measured load. Writes nothing.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="NAME",
        help="look at this disk, loop device or image file only; may be repeated",
    )
    parser.add_argument(
        "--load-window",
        type=_window,
        default=2.0,
        metavar="SECONDS",
        help="measure the load for so long; 0 leaves it out (default: 2)",
    )
    parser.set_defaults(run=run)


def _window(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _MAX_WINDOW_S:
        raise UsageError(problem=f"'{text}' is no number of seconds from 0 to {_MAX_WINDOW_S}")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Print the inventory."""
    machine = collect(args.disk, args.load_window)
    if args.json:
        print(json.dumps(machine.to_json(), indent=2))
    else:
        from agent.cli.machine_view import print_machine

        print_machine(machine)
    return 0
