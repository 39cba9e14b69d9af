# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent plan`: print the plan of a migration."""

from __future__ import annotations

import argparse
import json
import sys

from agent.cli.plan_options import add_plan_options, choices_from, look_for
from agent.plan import make_plan
from agent.preflight.check import preflight
from agent.preflight.finding import Level
from p2v.model import planfile
from p2v.model.command import Subparsers, printable


def register(subparsers: Subparsers) -> None:
    """Add `plan`."""
    parser = subparsers.add_parser(
        "plan",
        help="print the plan of a migration",
        description="Print the plan of a migration as TOML, for review and 'migrate --plan'. "
        "Writes nothing.",
        epilog="Example: p2v-agent plan --disk sda --exclude sda4 --format qcow2 > plan.toml",
    )
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan on stdout, its warnings and what preflight finds critical on stderr."""
    choices = choices_from(args)
    machine = look_for(choices)
    plan = make_plan(machine, choices)
    if args.json:
        print(json.dumps(planfile.to_json(plan), indent=2))
        return 0
    sys.stdout.write(planfile.dump(plan))
    for finding in preflight(machine):
        if finding.level is Level.CRITICAL:
            said = f"{finding.message} {finding.action}".rstrip()
            print(f"critical: {printable(said)}", file=sys.stderr)
    for warning in plan.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    return 0
