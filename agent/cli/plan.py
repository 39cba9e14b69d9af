# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent plan`: print the plan of a migration."""

from __future__ import annotations

import argparse
import json
import sys

from agent.cli.plan_options import add_plan_options, choices_from, plan_from
from p2v.model import planfile
from p2v.model.command import Subparsers, printable


def register(subparsers: Subparsers) -> None:
    """Add `plan`."""
    parser = subparsers.add_parser(
        "plan",
        help="print the plan of a migration",
        description="Print the plan of a migration as TOML, for review and 'migrate --plan'. "
        "Writes nothing.",
    )
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan on stdout and its warnings on stderr."""
    plan = plan_from(choices_from(args))
    if args.json:
        print(json.dumps(planfile.to_json(plan), indent=2))
        return 0
    sys.stdout.write(planfile.dump(plan))
    for warning in plan.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    return 0
