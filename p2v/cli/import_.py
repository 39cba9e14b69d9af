# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v import`: take in a stream that an agent wrote to a disk for want of a network."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from p2v.cli.output import print_json, size
from p2v.cli.progress import add_progress_option, progress, tell_wait
from p2v.cli.serve import DATA_HELP, DEFAULT_DATA
from p2v.model.command import EXIT_WARNINGS, Subparsers, file_path, printable
from p2v.model.errors import MigrationStateError, P2VError
from p2v.model.migration import MigrationState
from p2v.model.problem import error_of
from p2v.service.adminclient import AdminClient
from p2v.wire.stream import Stream

POLL_S = 0.5
_TASKS = (
    ("import", (MigrationState.RECEIVING, MigrationState.PAUSED)),
    ("verify", (MigrationState.VERIFYING,)),
    ("finish", (MigrationState.COMMITTING,)),
)


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
    add_progress_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import a stream and wait for its end; return the exit code.

    Raises:
        P2VError: it can't be imported.
    """
    client = AdminClient(args.data)
    folder = args.folder.resolve()
    total = sum(path.stat().st_size for path in Stream.open(folder).segments())
    migration: dict[str, Any] = client.call("POST", "/admin/imports", {"folder": str(folder)})
    if not args.json:
        print(f"migration {migration['id']}", flush=True)
    told = ""
    for task, states in _TASKS:
        with progress(args.progress, task) as advance:
            while migration["state"] in states and not _gave_up(migration):
                done, whole = _done(migration, total)
                if advance is not None and whole:
                    advance(done, whole)
                if migration["problem"] != told:
                    told = migration["problem"]
                    tell_wait(args.progress, task, told)
                time.sleep(POLL_S)
                migration = client.call("GET", f"/migrations/{migration['id']}")
    if migration["state"] != MigrationState.FINISHED:
        raise _reason(migration)
    if problem := migration["problem"]:
        print(f"p2v: warning: {printable(problem)}", file=sys.stderr)
    if args.json:
        print_json(migration)
    else:
        for disk, image in zip(migration["plan"]["disks"], migration["images"], strict=False):
            print(f"  image     {image} ({size(disk['size'])})")
    return EXIT_WARNINGS if problem else 0


def _gave_up(migration: dict[str, Any]) -> bool:
    """Whether it is paused, and nobody waits for that to be over, as for room in the store."""
    paused = migration["state"] == MigrationState.PAUSED
    return paused and not migration["progress"].get("connections")


def _done(migration: dict[str, Any], total: int) -> tuple[int, int]:
    """Return how many bytes of how many the task has done, of a stream of `total`; 0 unknown."""
    progress = migration["progress"]
    if migration["state"] == MigrationState.VERIFYING:
        return progress.get("verified_bytes", 0), progress.get("verify_bytes", 0)
    if migration["state"] == MigrationState.COMMITTING:
        return 0, 0
    return min(progress.get("wire_bytes", 0), total), total


def _reason(migration: dict[str, Any]) -> P2VError:
    if not migration["problem"]:
        state = migration["state"]
        return MigrationStateError(id=migration["id"], state=state, problem="it has no images")
    code = migration["problem_code"] or "failed"
    return error_of({"type": code, "detail": migration["problem"]})
