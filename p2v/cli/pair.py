# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v pair`: admit an agent, by a one-time code or, unattended, by a token."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from p2v.cli.output import print_json, print_pairs
from p2v.cli.serve import DATA_HELP, DEFAULT_DATA
from p2v.model.command import Subparsers, file_path, printable
from p2v.model.errors import NoAgentFileError, UsageError
from p2v.service.adminclient import AdminClient


def register(subparsers: Subparsers) -> None:
    """Add `pair`."""
    parser = subparsers.add_parser(
        "pair",
        description="Print a one-time code that admits an agent; or make, list, revoke tokens.",
    )
    parser.add_argument(
        "--data", metavar="DIR", type=file_path, default=DEFAULT_DATA, help=DATA_HELP
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--token",
        metavar="NAME",
        nargs="?",
        const="unattended",
        help="make a token for unattended agents; it is shown this once",
    )
    action.add_argument("--list", action="store_true", help="list the tokens")
    action.add_argument("--revoke", metavar="ID", help="revoke a token")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=file_path,
        help="with --token: write it there, for its owner only",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask the converter, and print what it answers."""
    if args.out is not None and args.token is None:
        raise UsageError(problem="--out needs --token")
    client = AdminClient(args.data)
    if args.token is not None:
        _token(client, args)
    elif args.list:
        _list(client, args)
    elif args.revoke is not None:
        _revoke(client, args)
    else:
        _code(client, args)
    return 0


def _code(client: AdminClient, args: argparse.Namespace) -> None:
    answer = client.call("POST", "/admin/codes")
    command = f"p2v-agent migrate --server {answer['address']} --disk NAME"
    fetch = _fetch_command(client)
    if args.json:
        print_json(answer | {"command": command, "fetch": fetch})
        return
    minutes = max(0, round((answer["expires"] - time.time()) / 60))
    print_pairs(
        (
            ("code", answer["code"]),
            ("valid", f"once, for {minutes} minutes and 3 tries"),
            ("address", answer["address"]),
            ("fingerprint", answer["fingerprint"]),
        )
    )
    if fetch is not None:
        print(f"\nThe agent, if the machine to migrate has none:\n  {fetch}")
        command = f"./{command}"
    print(f"\nOn the machine to migrate; it asks for the code:\n  {command}")


def _fetch_command(client: AdminClient) -> str | None:
    """Return what fetches the agent from the converter, None where that has none."""
    try:
        return str(client.call("GET", "/agent")["command"])
    except NoAgentFileError:
        return None


def _token(client: AdminClient, args: argparse.Namespace) -> None:
    # The file is made first: a token that can't be written must not have been issued.
    descriptor = None if args.out is None else _create(args.out)
    try:
        answer = client.call("POST", "/admin/tokens", {"name": args.token})
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
            args.out.unlink()
        raise
    if descriptor is not None:
        with os.fdopen(descriptor, "w") as file:
            file.write(answer.pop("token") + "\n")
        answer["file"] = str(args.out)
    command = (
        f"p2v-agent migrate --server {answer['address']} --fingerprint {answer['fingerprint']} "
        "--token-file FILE --disk NAME"
    )
    if args.json:
        print_json(answer | {"command": command})
        return
    names = ("id", "name", "token", "file", "address", "fingerprint")
    print_pairs((name, str(answer.get(name, ""))) for name in names)
    print(f"\nOn the machine to migrate, with the token in FILE:\n  {command}")


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(problem=f"{path} can't be made: {error.strerror}") from None


def _list(client: AdminClient, args: argparse.Namespace) -> None:
    tokens: list[dict[str, Any]] = client.call("GET", "/admin/tokens")
    if args.json:
        print_json({"tokens": tokens})
        return
    for token in tokens:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(token["created"]))
        print(f"{token['id']}  {made}  {printable(token['name'])}")


def _revoke(client: AdminClient, args: argparse.Namespace) -> None:
    if not args.revoke.isalnum():
        raise UsageError(problem=f"'{args.revoke}' is no token's id; 'p2v pair --list' shows them")
    client.call("DELETE", f"/admin/tokens/{args.revoke}")
    if args.json:
        print_json({"revoked": args.revoke})
