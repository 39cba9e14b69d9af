# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v migrations`: list, show or cancel the migrations of a converter."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from typing import Any

from p2v.cli.output import print_json, print_pairs, print_styled, size
from p2v.cli.serve import DATA_HELP, DEFAULT_DATA
from p2v.model.command import Subparsers, file_path, printable
from p2v.model.errors import MigrationStateError, NoSuchMigrationError
from p2v.model.migration import MigrationState
from p2v.service.adminclient import AdminClient

_THERE = {MigrationState.FINISHED: "", MigrationState.CANCELLED: " (deleted)"}
"""What else there is to say of the names of images."""


def register(subparsers: Subparsers) -> None:
    """Add `migrations` and what it can do; without an action it lists."""
    parser = subparsers.add_parser(
        "migrations", description="List, show or cancel the migrations of a converter."
    )
    _common(parser, DEFAULT_DATA, json_default=False)
    parser.set_defaults(run=run_list)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser("list", help="list all, newest first")
    listing.set_defaults(run=run_list)
    show = actions.add_parser("show", help="show one with its history")
    show.set_defaults(run=run_show)
    cancel = actions.add_parser("cancel", help="end one and delete its unfinished images")
    cancel.set_defaults(run=run_cancel)
    for action in (show, cancel):
        action.add_argument("id", metavar="ID", help="the migration, as 'list' shows it")
    for action in (listing, show, cancel):
        _common(action, argparse.SUPPRESS, json_default=argparse.SUPPRESS)


def _common(parser: argparse.ArgumentParser, data: Any, json_default: Any) -> None:
    parser.add_argument("--data", metavar="DIR", type=file_path, default=data, help=DATA_HELP)
    parser.add_argument(
        "--json", action="store_true", default=json_default, help="print one JSON document"
    )


def run_list(args: argparse.Namespace) -> int:
    """Print all migrations, newest first."""
    found: list[dict[str, Any]] = AdminClient(args.data).call("GET", "/migrations")
    if args.json:
        print_json({"migrations": found})
        return 0
    if not found:
        print("no migration yet; 'p2v-agent migrate --server URL' begins one")
    width = max((len(each["id"]) for each in found), default=0)
    for each in found:
        total = size(sum(disk["size"] for disk in each["plan"]["disks"]))
        line = f"{each['id']:<{width}}  {each['state']:<10}  {_when(each['created'])}  {total}"
        print(f"{line}  {printable(each['problem'])}".rstrip())
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print one migration with its history."""
    client = AdminClient(args.data)
    migration = client.call("GET", _path(args.id))
    events = client.call("GET", f"{_path(args.id)}/events")
    machine = _machine(client, args.id)
    if args.json:
        print_json(migration | {"events": events, "machine": machine})
        return 0
    print_styled(migration["id"], "bold")
    print_pairs((*_facts(migration), *_machine_facts(machine or {})))
    for event in events:
        print(f"  {_when(event['at'])}  {event['kind']}  {printable(event['text'])}".rstrip())
    return 0


def run_cancel(args: argparse.Namespace) -> int:
    """Cancel one."""
    migration = AdminClient(args.data).call("POST", f"{_path(args.id)}/cancel")
    if args.json:
        print_json(migration)
    else:
        print(f"{migration['id']} is cancelled; its unfinished images are deleted.")
    return 0


def _path(text: str) -> str:
    """Return the API's path of a migration; what can be no id names none."""
    if not re.fullmatch(r"[a-z0-9-]{1,63}", text):
        raise NoSuchMigrationError(id=text)
    return f"/migrations/{text}"


def _facts(migration: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "state", migration["state"]
    yield "problem", migration["problem"]
    yield "started", f"{_when(migration['created'])} by {migration['owner'] or 'nobody'}"
    yield "changed", _when(migration["updated"])
    there = _THERE.get(MigrationState(migration["state"]), " (not there before it is finished)")
    for disk, image in zip(migration["plan"]["disks"], migration["images"], strict=False):
        yield "disk", f"{disk['name']}, {size(disk['size'])} -> {image}{there}"
    progress = migration["progress"]
    if progress.get("wire_bytes"):
        yield "received", size(progress["wire_bytes"])
    if progress.get("verify_bytes"):
        yield "verified", f"{size(progress['verified_bytes'])} of {size(progress['verify_bytes'])}"


def _machine(client: AdminClient, id_: str) -> dict[str, Any] | None:
    """Return what became of its virtual machine; None where nobody asked for one."""
    try:
        found: dict[str, Any] = client.call("GET", f"{_path(id_)}/machine")
    except MigrationStateError:
        return None
    return found


def _machine_facts(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if machine:
        where = f" on {machine['host']}" if machine["host"] else ""
        yield "machine", machine["state"] + where
        yield "machine's id", machine["machine"]
        yield "no machine", machine["problem"]
        for each in machine["undone"]:
            yield "taken back", each


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
