# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v script`: the making of a virtual machine as PowerShell or shell."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

from p2v.cli.output import print_json
from p2v.cli.progress import add_progress_option, progress
from p2v.cli.serve import DATA_HELP, DEFAULT_DATA
from p2v.model import planfile
from p2v.model.command import Subparsers, file_path
from p2v.model.errors import UsageError
from p2v.model.host import HypervisorKind
from p2v.script.make import make_plan_script
from p2v.service.adminclient import AdminClient

_POLL_S = 0.5
_MIGRATION = re.compile(r"[a-z0-9-]{1,63}")


def register(subparsers: Subparsers) -> None:
    """Add `script`."""
    parser = subparsers.add_parser(
        "script",
        description="Print the script that makes a virtual machine: PowerShell for Hyper-V, shell "
        "for virsh, qm, xe and govc. For a finished migration it fetches the images by links that "
        "are good once and for a day; for a plan they are brought by hand.",
    )
    parser.add_argument("subject", metavar="MIGRATION|PLAN", help="an id, or a plan's file")
    parser.add_argument("--host", metavar="HOST", default="", help="one of 'p2v hosts list'")
    parser.add_argument(
        "--kind", choices=[kind.value for kind in HypervisorKind], help="without a known host"
    )
    parser.add_argument(
        "--storage", default="", help="the host's datastore, pool, repository or folder"
    )
    parser.add_argument(
        "--data", metavar="DIR", type=file_path, default=DEFAULT_DATA, help=DATA_HELP
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_progress_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    path = Path(args.subject)
    if path.is_file():
        document = _of_plan(path, args)
    elif _MIGRATION.fullmatch(args.subject):
        document = _of_migration(args)
    else:
        raise UsageError(problem=f"'{args.subject}' is neither a migration nor a plan's file")
    if args.json:
        print_json(document)
    else:
        sys.stdout.write(document["text"])
    return 0


def _of_plan(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    plan = planfile.read(path)
    if args.kind is None:
        raise UsageError(problem="a plan knows no hypervisor; add --kind")
    kind = HypervisorKind(args.kind)
    if not (args.storage or (plan.vm and plan.vm.storage)):
        raise UsageError(problem="add --storage with the host's datastore, pool or folder")
    text = make_plan_script(kind, plan, args.storage, args.host)
    return {"kind": kind, "host": args.host, "text": text}


def _of_migration(args: argparse.Namespace) -> dict[str, Any]:
    client = AdminClient(args.data)
    body = {"host": args.host, "kind": args.kind, "storage": args.storage}
    path = f"/admin/migrations/{args.subject}/script"
    with progress(args.progress, "digest") as advance:
        while True:
            answer: dict[str, Any] = client.call("POST", path, body)
            if advance is not None and not answer["text"]:
                advance(answer["hashed"], answer["total"])
            if answer["text"]:
                return {key: answer[key] for key in ("kind", "host", "text")}
            time.sleep(_POLL_S)
