# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v import`: take in a stream that an agent wrote to a disk for want of a network."""

from __future__ import annotations

import argparse
import time
from typing import Any

from p2v.cli.output import print_json, size
from p2v.cli.serve import DATA_HELP, DEFAULT_DATA
from p2v.model.command import Subparsers, file_path
from p2v.model.migration import MigrationState
from p2v.model.problem import error_of
from p2v.service.adminclient import AdminClient

POLL_S = 0.5


def register(subparsers: Subparsers) -> None:
    """Add `import`."""
    parser = subparsers.add_parser(
        "import",
        description="Give a stream, made by 'p2v-agent migrate --to-stream' or the live image, to "
        "the running converter, and wait until its images are finished. The converter reads it: "
        "it must be mounted on its machine. Repeating it is harmless.",
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=file_path, help="the stream: a migration's id"
    )
    parser.add_argument(
        "--data", metavar="DIR", type=file_path, default=DEFAULT_DATA, help=DATA_HELP
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import a stream and wait for its end.

    Raises:
        P2VError: it can't be imported.
    """
    client = AdminClient(args.data)
    body = {"folder": str(args.folder.resolve())}
    migration: dict[str, Any] = client.call("POST", "/admin/imports", body)
    if not args.json:
        print(f"migration {migration['id']}")
    while (state := MigrationState(migration["state"])) is not MigrationState.FINISHED:
        if state.final or state is MigrationState.PAUSED:
            code = migration["problem_code"] or "failed"
            raise error_of({"type": code, "detail": migration["problem"]})
        time.sleep(POLL_S)
        migration = client.call("GET", f"/migrations/{migration['id']}")
    if args.json:
        print_json(migration)
        return 0
    for disk, image in zip(migration["plan"]["disks"], migration["images"], strict=False):
        print(f"  image     {image} ({size(disk['size'])})")
    return 0
