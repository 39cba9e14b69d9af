# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v hosts deploy` and `undeploy`: the virtual machines of finished migrations."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import Any

from p2v.cli.output import print_json
from p2v.cli.progress import add_progress_option, progress
from p2v.model.command import Parser, printable
from p2v.model.errors import HostError, NoSuchMigrationError, UsageError
from p2v.service.adminclient import AdminClient

_GOING = ("wanted", "making")
_POLL_S = 0.5
_MIGRATION = re.compile(r"[a-z0-9-]{1,63}")


def register(actions: argparse._SubParsersAction[Parser]) -> list[Parser]:
    """Add what makes and removes machines; return the parsers."""
    deploy = actions.add_parser(
        "deploy",
        help="make the virtual machine of a finished migration",
        epilog="Exit code 71: it could not be made; what was begun is taken back.",
    )
    deploy.add_argument("--host", metavar="HOST", help="default: the plan's, or the best")
    deploy.add_argument("--storage", help="the host's datastore, pool, repository or folder")
    deploy.add_argument("--power-on", action="store_true", default=None, help="start it")
    deploy.add_argument(
        "--plugged", action="store_true", help="plug in a domain controller's cables too"
    )
    add_progress_option(deploy)
    deploy.set_defaults(run=run_deploy)
    undeploy = actions.add_parser(
        "undeploy", help="delete such a machine with its disks; the migration's images stay"
    )
    undeploy.add_argument("--yes", action="store_true", help="do not ask")
    undeploy.set_defaults(run=run_undeploy)
    for parser in (deploy, undeploy):
        parser.add_argument("migration", metavar="MIGRATION", help="its id")
    return [deploy, undeploy]


def run_deploy(args: argparse.Namespace) -> int:
    """Have the machine made, and wait for what comes of it."""
    client = AdminClient(args.data)
    path = _path(args.migration)
    wanted = {
        "host": args.host,
        "storage": args.storage,
        "power_on": args.power_on,
        "isolated": False if args.plugged else None,
    }
    client.call("POST", f"/admin{path}", wanted)
    with progress(args.progress, "upload") as advance:
        while (found := client.call("GET", path))["state"] in _GOING:
            if advance is not None and found["total"]:
                advance(found["sent"], found["total"])
            time.sleep(_POLL_S)
    made = found["state"] == "made"
    if args.json:
        print_json(found)
        return 0 if made else HostError.exit_code
    if made:
        print(f"Made on {printable(found['host'])}: {printable(found['machine'])}.")
        return 0
    for each in found["undone"]:
        print(f"taken back: {printable(each)}", file=sys.stderr)
    raise HostError(host=found["host"] or "The converter", problem=found["problem"].rstrip("."))


def run_undeploy(args: argparse.Namespace) -> int:
    """Delete the machine, once somebody has said that this is meant."""
    client = AdminClient(args.data)
    path = _path(args.migration)
    found: dict[str, Any] = client.call("GET", path)
    if not args.yes:
        _ask(found)
    found = client.call("DELETE", f"/admin{path}")
    if args.json:
        print_json(found)
    else:
        print(f"Deleted from {printable(found['host'])}.")
    return 0


def _ask(found: dict[str, Any]) -> None:
    where = f"the machine of {found['migration']} on {printable(found['host'])}"
    if not sys.stdin.isatty():
        raise UsageError(problem=f"add --yes to delete {where} with its disks")
    answer = input(f"Delete {where} with its disks, and all that was written to them? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError(problem="nothing was deleted")


def _path(migration: str) -> str:
    if not _MIGRATION.fullmatch(migration):
        raise NoSuchMigrationError(id=migration)
    return f"/migrations/{migration}/machine"
