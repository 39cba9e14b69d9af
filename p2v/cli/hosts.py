# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v hosts`: the hypervisors that virtual machines go to, and how well each suits one."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from p2v.cli import machines, placement
from p2v.cli.output import (
    age,
    print_json,
    print_pairs,
    print_styled,
    print_wrapped,
    size,
    table,
)
from p2v.cli.serve import DATA_HELP, DEFAULT_DATA
from p2v.hosts.connection import ConnectionKind
from p2v.model.command import Parser, Subparsers, file_path, filled, printable
from p2v.model.errors import (
    NoSuchHostError,
    UsageError,
    reason,
)
from p2v.model.pairing import parse_fingerprint
from p2v.model.units import format_size, parse_size
from p2v.service.adminclient import AdminClient

PASSWORD_VARIABLE = "P2V_HOST_PASSWORD"  # noqa: S105 - its name
_HEADER = ("HOST", "KIND", "CPUS", "BUSY", "MEMORY FREE", "ROOM", "SEEN")


def register(subparsers: Subparsers) -> None:
    """Add `hosts` and what it can do; without an action it lists."""
    parser = subparsers.add_parser(
        "hosts", description="Add, list and rate the hosts that virtual machines are made on."
    )
    _common(parser, DEFAULT_DATA, json_default=False)
    parser.set_defaults(run=run_list)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    _register_add(actions)
    listing = actions.add_parser("list", help="list all hosts and what they do")
    listing.set_defaults(run=run_list)
    show = actions.add_parser("show", help="show all that is known of a host")
    show.add_argument("name", metavar="HOST", help="as 'list' shows it")
    show.set_defaults(run=run_show)
    remove = actions.add_parser("remove", help="forget a connection; machines stay")
    remove.add_argument("name", metavar="CONNECTION", help="as it was added")
    remove.set_defaults(run=run_remove)
    refresh = actions.add_parser("refresh", help="measure all hosts now")
    refresh.set_defaults(run=run_refresh)
    others = [placement.register(actions), *machines.register(actions)]
    for action in (listing, show, remove, refresh, *others):
        _common(action, argparse.SUPPRESS, json_default=argparse.SUPPRESS)


def _common(parser: argparse.ArgumentParser, data: Any, json_default: Any) -> None:
    parser.add_argument("--data", metavar="DIR", type=file_path, default=data, help=DATA_HELP)
    parser.add_argument(
        "--json", action="store_true", default=json_default, help="print one JSON document"
    )


def _register_add(actions: argparse._SubParsersAction[Parser]) -> None:
    add = actions.add_parser(
        "add",
        help="add a host, a cluster or a vCenter",
        epilog=f"The password is asked for, or taken from --password-file or {PASSWORD_VARIABLE}. "
        "Example: p2v hosts add kvm1 --kind libvirt --address qemu+ssh://root@kvm1/system",
    )
    add.add_argument("name", metavar="CONNECTION", help="what to call it")
    add.add_argument(
        "--kind",
        required=True,
        choices=[kind.value for kind in ConnectionKind],
        help="the hypervisor; static: a file of hosts",
    )
    add.add_argument(
        "--address", required=True, type=filled, help="a host, a URL or, for static, a file"
    )
    add.add_argument("--user", default="", help="who may make machines there")
    add.add_argument(
        "--password-file", metavar="FILE", type=file_path, help="holds the user's password"
    )
    add.add_argument(
        "--fingerprint", metavar="SHA256", default="", help="of a certificate that nobody signed"
    )
    add.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="of this kind of host (docs/hosts.md); may be repeated",
    )
    add.add_argument("--group", metavar="A/B", default="", help="data center/cluster")
    add.add_argument(
        "--max-iops", type=float, default=0.0, metavar="N", help="what its storage can do"
    )
    add.add_argument(
        "--network-rate", type=parse_size, default=0, metavar="RATE", help="bytes a second, as 1.2G"
    )
    add.add_argument(
        "--reserve-cpu",
        type=float,
        default=10.0,
        metavar="PERCENT",
        help="kept for the host itself: of its processors (default: 10)",
    )
    add.add_argument(
        "--reserve-memory",
        type=_size,
        default=1 << 30,
        metavar="SIZE",
        help="of its memory (default: 1G)",
    )
    add.add_argument(
        "--reserve-disk",
        type=_size,
        default=10 << 30,
        metavar="SIZE",
        help="of each storage (default: 10G)",
    )
    add.add_argument(
        "--reserve-iops",
        type=float,
        default=0.0,
        metavar="N",
        help="operations a second (default: 0)",
    )
    add.add_argument(
        "--reserve-network",
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="of its network (default: 0)",
    )
    _common(add, argparse.SUPPRESS, json_default=argparse.SUPPRESS)
    add.set_defaults(run=run_add)


def _size(text: str) -> int:
    """Return what a size says; that of nothing is none elsewhere, and is a reserve."""
    return 0 if text == "0" else parse_size(text)


def run_add(args: argparse.Namespace) -> int:
    """Add a connection that answers, and print its hosts."""
    fingerprint = parse_fingerprint(args.fingerprint).hex() if args.fingerprint else ""
    body = {
        "name": args.name,
        "kind": args.kind,
        "address": str(Path(args.address).resolve())
        if args.kind == ConnectionKind.STATIC
        else args.address,
        "user": args.user,
        "secret": _password(args),
        "fingerprint": fingerprint,
        "options": _options(args.option),
        "group": [part for part in args.group.split("/") if part],
        "max_iops": args.max_iops,
        "network_rate": float(args.network_rate),
        "reserve": {
            "cpu_percent": args.reserve_cpu,
            "memory": args.reserve_memory,
            "disk": args.reserve_disk,
            "iops": args.reserve_iops,
            "network_percent": args.reserve_network,
        },
    }
    found = AdminClient(args.data).call("POST", "/admin/hosts", body)
    if args.json:
        print_json({"hosts": found})
        return 0
    _print_tree(found)
    return 0


def _password(args: argparse.Namespace) -> str:
    """Return the password: never from the command line, where anybody can read it."""
    if args.password_file is not None:
        try:
            text: str = args.password_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problem = f"the password in {args.password_file} can't be read: {reason(error)}"
            raise UsageError(problem=problem) from None
        return text.rstrip("\n")
    if PASSWORD_VARIABLE in os.environ:
        return os.environ[PASSWORD_VARIABLE]
    if not args.user:
        return ""
    if not sys.stdin.isatty():
        problem = f"there is no terminal to ask for the password; use {PASSWORD_VARIABLE}"
        raise UsageError(problem=problem)
    return getpass.getpass(f"Password of {args.user}: ")


def _options(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(problem=f"--option {word} is not KEY=VALUE")
        found[key] = value
    return found


def run_list(args: argparse.Namespace) -> int:
    """Print all hosts as they were last seen."""
    return _print_hosts(AdminClient(args.data).call("GET", "/hosts"), args.json)


def run_refresh(args: argparse.Namespace) -> int:
    """Measure all hosts, and print them."""
    return _print_hosts(AdminClient(args.data).call("POST", "/admin/hosts/refresh"), args.json)


def _print_hosts(document: dict[str, Any], json_output: bool) -> int:
    if json_output:
        print_json(document)
        return 0
    if not document["connections"]:
        print("no host is known; 'p2v hosts add' adds one")
    _print_tree(document["hosts"])
    seen = {host["connection"] for host in document["hosts"]}
    for connection in document["connections"]:
        if connection["problem"] and connection["name"] not in seen:
            print(f"{connection['name']}: {printable(connection['problem'])}")
    return 0


def _print_tree(hosts: Sequence[dict[str, Any]]) -> None:
    """Print a line a host, below the groups that it is in."""
    if not hosts:
        return
    rows: list[tuple[Sequence[str], str]] = [(_HEADER, "")]
    above: tuple[str, ...] = ()
    for host in sorted(hosts, key=lambda each: (each["facts"]["group"], each["name"])):
        group = tuple(host["facts"]["group"])
        same = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(above, group)))  # noqa: B905
        for depth in range(same, len(group)):
            rows.append((("  " * depth + group[depth], *[""] * (len(_HEADER) - 1)), ""))
        above = group
        rows.append((_cells(host, "  " * len(group)), _state(host)))
    lines = table([cells for cells, _ in rows], range(2, 6))
    for line, (_, state) in zip(lines, rows, strict=True):
        print(line)
        if state:
            print_wrapped(state, "        ")


def _cells(host: dict[str, Any], indent: str) -> tuple[str, ...]:
    facts, load = host["facts"], host["facts"]["load"]
    name = printable(indent + host["name"])
    if not facts["cpus"]:  # it never answered
        return (name, facts["hypervisor"], "", "", "", "", age(host["age_s"]))
    room = format_size(max((each["free"] for each in facts["storages"]), default=0))
    return (
        name,
        facts["hypervisor"],
        str(facts["cpus"]),
        f"{load['cpu_percent']:.0f}%",
        format_size(max(facts["memory"] - load["memory_used"], 0)),
        room,
        age(host["age_s"]),
    )


def _state(host: dict[str, Any]) -> str:
    if host["problem"]:
        return f"does not answer: {host['problem']}"
    return "in maintenance mode" if host["facts"]["maintenance"] else ""


def run_show(args: argparse.Namespace) -> int:
    """Print all that is known of a host."""
    document = AdminClient(args.data).call("GET", "/hosts")
    found = next(
        (
            each
            for each in document["hosts"]
            if args.name in (each["name"], f"{each['connection']}/{each['name']}")
        ),
        None,
    )
    if found is None:
        raise NoSuchHostError(host=args.name)
    if args.json:
        print_json(found)
        return 0
    print_styled(found["name"], "bold")
    print_pairs(_facts(found))
    return 0


def _facts(host: dict[str, Any]) -> Iterator[tuple[str, str]]:
    facts, load = host["facts"], host["facts"]["load"]
    yield "problem", host["problem"]
    yield "connection", host["connection"]
    yield "hypervisor", f"{facts['hypervisor']} {facts['version']}"
    yield "group", " / ".join(facts["group"])
    yield "seen", f"{age(host['age_s'])} ago, load averaged over {host['samples']} measurements"
    yield "processors", f"{facts['cpus']}, {load['cpu_percent']:.1f} % busy"
    yield "memory", f"{size(facts['memory'])}, {format_size(load['memory_used'])} used"
    yield "disk", f"{load['iops']:.0f} operations/s of {facts['max_iops'] or 'unknown'}"
    yield "network", f"{format_size(load['network_bytes'])}/s"
    for storage in facts["storages"]:
        shared = ", shared" if storage["shared"] else ""
        yield "storage", f"{storage['name']}, {format_size(storage['free'])} free{shared}"
    for network in facts["networks"]:
        yield "switch", network["name"]
    yield "firmware", ", ".join(facts["limits"]["firmware"])
    yield "maintenance", "yes" if facts["maintenance"] else ""
    yield "cluster", "yes" if facts["in_cluster"] else ""


def run_remove(args: argparse.Namespace) -> int:
    """Forget a connection."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", args.name):
        raise NoSuchHostError(host=args.name)
    AdminClient(args.data).call("DELETE", f"/admin/hosts/{args.name}")
    if args.json:
        print_json({"removed": args.name})
    return 0
