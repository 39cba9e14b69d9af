# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v hosts`: the hypervisors that virtual machines go to, and how well each suits one."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from p2v.cli.output import print_json, print_pairs, print_styled, size
from p2v.cli.serve import DEFAULT_DATA
from p2v.hosts.connection import ConnectionKind
from p2v.model.command import Parser, Subparsers, printable
from p2v.model.errors import (
    HostError,
    NoSuchHostError,
    NoSuchMigrationError,
    NoSuitableHostError,
    UsageError,
)
from p2v.model.pairing import parse_fingerprint
from p2v.model.planfile import load, to_json
from p2v.model.rating import Goal, Rating, Weights
from p2v.model.units import format_size, parse_size
from p2v.placement.rate import Candidate, Policy, rank
from p2v.service.adminclient import AdminClient

PASSWORD_VARIABLE = "P2V_HOST_PASSWORD"  # noqa: S105 - its name
_GOING = ("wanted", "making")
_POLL_S = 0.5
_MIGRATION = re.compile(r"[a-z0-9-]{1,63}")


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
    show.add_argument("name", metavar="HOST")
    show.set_defaults(run=run_show)
    remove = actions.add_parser("remove", help="forget a connection; machines stay")
    remove.add_argument("name", metavar="CONNECTION")
    remove.set_defaults(run=run_remove)
    refresh = actions.add_parser("refresh", help="measure all hosts now")
    refresh.set_defaults(run=run_refresh)
    _register_rate(actions)
    _register_deploy(actions)
    for action in (listing, show, remove, refresh):
        _common(action, argparse.SUPPRESS, json_default=argparse.SUPPRESS)


def _common(parser: argparse.ArgumentParser, data: Any, json_default: Any) -> None:
    parser.add_argument("--data", metavar="DIR", type=Path, default=data)
    parser.add_argument(
        "--json", action="store_true", default=json_default, help="print one JSON document"
    )


def _register_add(actions: argparse._SubParsersAction[Parser]) -> None:
    add = actions.add_parser(
        "add",
        help="add a host, a cluster or a vCenter",
        epilog=f"The password is asked for, or taken from --password-file or {PASSWORD_VARIABLE}.",
    )
    add.add_argument("name", metavar="CONNECTION", help="what to call it")
    add.add_argument("--kind", required=True, choices=[kind.value for kind in ConnectionKind])
    add.add_argument("--address", required=True, help="a host, a URL or, for static, a file")
    add.add_argument("--user", default="")
    add.add_argument("--password-file", metavar="FILE", type=Path)
    add.add_argument(
        "--fingerprint", metavar="SHA256", default="", help="of a certificate that nobody signed"
    )
    add.add_argument("--option", metavar="KEY=VALUE", action="append", default=[])
    add.add_argument("--group", metavar="A/B", default="", help="data center/cluster")
    add.add_argument("--max-iops", type=float, default=0.0, help="what its storage can do")
    add.add_argument("--network-rate", type=parse_size, default=0, help="bytes a second, as 1.2G")
    add.add_argument("--reserve-cpu", type=float, default=10.0, metavar="PERCENT")
    add.add_argument("--reserve-memory", type=parse_size, default=1 << 30, metavar="SIZE")
    add.add_argument("--reserve-disk", type=parse_size, default=10 << 30, metavar="SIZE")
    _common(add, argparse.SUPPRESS, json_default=argparse.SUPPRESS)
    add.set_defaults(run=run_add)


def _register_rate(actions: argparse._SubParsersAction[Parser]) -> None:
    rate = actions.add_parser(
        "rate",
        help="rate all hosts for a plan or a migration",
        epilog="Exit code 72: no host gets a star.",
    )
    rate.add_argument("subject", metavar="PLAN|MIGRATION")
    rate.add_argument("--goal", choices=[goal.value for goal in Goal], default=Goal.BALANCE.value)
    rate.add_argument(
        "--weights", metavar="cpu=2,disk=0", default="", help="cpu, memory, disk, network; 1 each"
    )
    rate.add_argument(
        "--growth", type=float, default=0.2, help="part of the disks' free room to be there"
    )
    rate.add_argument(
        "--hosts", metavar="FILE", type=Path, help="rate the hosts of a file; no converter needed"
    )
    rate.add_argument("--explain", action="store_true", help="show every term with its numbers")
    _common(rate, argparse.SUPPRESS, json_default=argparse.SUPPRESS)
    rate.set_defaults(run=run_rate)


def _register_deploy(actions: argparse._SubParsersAction[Parser]) -> None:
    deploy = actions.add_parser(
        "deploy",
        help="make the virtual machine of a finished migration",
        epilog="Exit code 71: it could not be made; what was begun is taken back.",
    )
    deploy.add_argument("migration", metavar="MIGRATION")
    deploy.add_argument("--host", metavar="HOST", help="default: the plan's, or the best")
    deploy.add_argument("--storage", help="the host's datastore, pool, repository or folder")
    deploy.add_argument("--power-on", action="store_true", default=None, help="start it")
    _common(deploy, argparse.SUPPRESS, json_default=argparse.SUPPRESS)
    deploy.set_defaults(run=run_deploy)


# --- connections ---------------------------------------------------------------------------------


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
        },
    }
    found = AdminClient(args.data).call("POST", "/admin/hosts", body)
    if args.json:
        print_json({"hosts": found})
        return 0
    for host in found:
        print(_line(host))
    return 0


def _password(args: argparse.Namespace) -> str:
    """Return the password: never from the command line, where anybody can read it."""
    if args.password_file is not None:
        try:
            text: str = args.password_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problem = f"the password in {args.password_file} can't be read: {error}"
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
    for group, found in _tree(document["hosts"]):
        if group:
            print_styled(" / ".join(group), "bold")
        for host in found:
            print(f"{'  ' if group else ''}{_line(host)}")
    seen = {host["connection"] for host in document["hosts"]}
    for connection in document["connections"]:
        if connection["problem"] and connection["name"] not in seen:
            print(f"{connection['name']}: {printable(connection['problem'])}")
    return 0


def _tree(hosts: Sequence[dict[str, Any]]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    groups: dict[tuple[str, ...], list[Any]] = {}
    for host in hosts:
        groups.setdefault(tuple(host["facts"]["group"]), []).append(host)
    yield from sorted(groups.items())


def _line(host: dict[str, Any]) -> str:
    facts, load = host["facts"], host["facts"]["load"]
    free = format_size(max(facts["memory"] - load["memory_used"], 0))
    room = format_size(max((each["free"] for each in facts["storages"]), default=0))
    words = (
        f"{host['name']:<20} {facts['hypervisor']:<9} {facts['cpus']:>3} CPUs "
        f"{load['cpu_percent']:>3.0f} % busy  {free:>10} of {format_size(facts['memory'])} free  "
        f"{room:>10} room  {_age(host['age_s'])}"
    )
    return printable(words + (f"  NOT ANSWERING: {host['problem']}" if host["problem"] else ""))


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"


def run_show(args: argparse.Namespace) -> int:
    """Print all that is known of a host."""
    document = AdminClient(args.data).call("GET", "/hosts")
    found = next((each for each in document["hosts"] if each["name"] == args.name), None)
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
    yield "seen", f"{_age(host['age_s'])}, load averaged over {host['samples']} measurements"
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


# --- machines ------------------------------------------------------------------------------------


def run_deploy(args: argparse.Namespace) -> int:
    """Have the machine made, and wait for what comes of it."""
    if not _MIGRATION.fullmatch(args.migration):
        raise NoSuchMigrationError(id=args.migration)
    client = AdminClient(args.data)
    wanted = {"host": args.host, "storage": args.storage, "power_on": args.power_on}
    client.call("POST", f"/admin/migrations/{args.migration}/machine", wanted)
    while (found := client.call("GET", f"/migrations/{args.migration}/machine"))["state"] in _GOING:
        time.sleep(_POLL_S)
    if args.json:
        print_json(found)
    elif found["state"] == "made":
        print(f"Made on {printable(found['host'])}: {printable(found['machine'])}.")
    for each in found["undone"] if not args.json else ():
        print(f"taken back: {printable(each)}", file=sys.stderr)
    if found["state"] == "made":
        return 0
    if args.json:
        return HostError.exit_code
    raise HostError(host=found["host"] or "The converter", problem=found["problem"].rstrip("."))


# --- ratings -------------------------------------------------------------------------------------


def run_rate(args: argparse.Namespace) -> int:
    """Print the ratings, the best first."""
    ratings = _rated_offline(args) if args.hosts is not None else _rated(args)
    if args.json:
        print_json({"ratings": [each.to_json() for each in ratings]})
    else:
        for rating in ratings:
            _print_rating(rating, args.explain)
    if not any(rating.stars for rating in ratings):
        problem = "none gets a star" if ratings else "no host is known"
        if args.json:
            return NoSuitableHostError.exit_code
        raise NoSuitableHostError(name=args.subject, problem=problem)
    return 0


def _rated_offline(args: argparse.Namespace) -> tuple[Rating, ...]:
    from p2v.hosts.static import read_hosts

    weights = Weights(**_weights(args.weights))
    policy = Policy(Goal(args.goal), weights, args.growth)
    plan = load(_text(Path(args.subject)))
    return rank(plan, [Candidate(facts) for facts in read_hosts(args.hosts)], policy)


def _rated(args: argparse.Namespace) -> tuple[Rating, ...]:
    client = AdminClient(args.data)
    path = Path(args.subject)
    if path.is_file():
        plan = to_json(load(_text(path)))
    elif _MIGRATION.fullmatch(args.subject):
        plan = client.call("GET", f"/migrations/{args.subject}")["plan"]
    else:
        raise UsageError(problem=f"'{args.subject}' is neither a plan's file nor a migration")
    body = {
        "plan": plan,
        "goal": args.goal,
        "weights": _weights(args.weights),
        "growth": args.growth,
    }
    found = client.call("POST", "/placement", body)["ratings"]
    return tuple(Rating.from_json(each) for each in found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(problem=f"the plan {path} can't be read: {error}") from None


def _weights(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in filter(None, text.split(",")):
        key, _, value = word.partition("=")
        try:
            found[key] = float(value)
        except ValueError:
            raise UsageError(problem=f"--weights: '{word}' is not like cpu=2") from None
        if key not in ("cpu", "memory", "disk", "network"):
            raise UsageError(problem=f"--weights: '{key}' is not cpu, memory, disk or network")
    return found


def _print_rating(rating: Rating, explain: bool) -> None:
    where = " / ".join((*rating.group, rating.host))
    age = f"  ({_age(rating.age_s)}, {rating.samples} measurements)" if rating.samples else ""
    print_styled(f"{stars(rating.stars)}  {where}  {rating.storage}{age}", "bold")
    if explain:
        for term in rating.terms:
            print(f"        {printable(term.text)}")
    for reason in rating.reasons:
        print(f"        no stars: {printable(reason.text)}")
    for note in rating.notes:
        print(f"        note: {printable(note)}")
    for better in rating.improvements:
        print(f"        {printable(better.change)} -> {better.stars:g} stars")


def stars(count: float) -> str:
    """Return stars for any terminal: ``***1/2 `` is three and a half."""
    whole = int(count)
    return f"{'*' * whole + ('1/2' if count % 1 else '') or '-':<7}"
