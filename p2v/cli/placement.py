# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v hosts rate`: the stars of each host for a plan or a migration, and why."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from p2v.cli.output import age, print_json, print_styled, print_wrapped, table
from p2v.model import planfile
from p2v.model.command import Parser, file_path, printable
from p2v.model.errors import NoSuitableHostError, UsageError
from p2v.model.rating import Goal, Rating, Term, Weights
from p2v.placement.rate import Candidate, Policy, rank
from p2v.service.adminclient import AdminClient

_MIGRATION = re.compile(r"[a-z0-9-]{1,63}")
_HEADER = ("STARS", "CPU", "MEM", "DISK", "NET", "SEEN", "HOST")


def register(actions: argparse._SubParsersAction[Parser]) -> Parser:
    """Add `rate`; return its parser."""
    rate = actions.add_parser(
        "rate",
        help="rate all hosts for a plan or a migration",
        epilog="Exit code 72: no host gets a star.",
    )
    rate.add_argument("subject", metavar="PLAN|MIGRATION", help="a plan's file, or an id")
    rate.add_argument(
        "--goal",
        choices=[goal.value for goal in Goal],
        default=Goal.BALANCE.value,
        help="the emptiest host first, or the fullest that can take it (default: balance)",
    )
    rate.add_argument(
        "--weights", metavar="cpu=2,disk=0", default="", help="cpu, memory, disk, network; 1 each"
    )
    rate.add_argument(
        "--growth",
        type=float,
        default=0.2,
        metavar="PART",
        help="part of the disks' free room to be there, 0 to 1 (default: 0.2)",
    )
    rate.add_argument(
        "--hosts",
        metavar="FILE",
        type=file_path,
        help="rate the hosts of a file; no converter needed",
    )
    rate.add_argument("--explain", action="store_true", help="show every term with its numbers")
    rate.add_argument(
        "--group", metavar="A/B", default="", help="only the hosts of this group and below it"
    )
    rate.set_defaults(run=run_rate)
    return rate


def run_rate(args: argparse.Namespace) -> int:
    """Print the ratings, the best first."""
    ratings = _rated_offline(args) if args.hosts is not None else _rated(args)
    if args.json:
        print_json({"ratings": [each.to_json() for each in ratings]})
    else:
        _print_ratings(ratings, args.explain)
    if not any(rating.stars for rating in ratings):
        problem = "none gets a star" if ratings else "no host is known"
        if args.json:
            return NoSuitableHostError.exit_code
        raise NoSuitableHostError(name=args.subject, problem=problem)
    return 0


def _rated_offline(args: argparse.Namespace) -> tuple[Rating, ...]:
    from p2v.hosts.static import read_hosts

    policy = Policy(Goal(args.goal), Weights.parse(args.weights), args.growth)
    plan = planfile.read(Path(args.subject))
    group = tuple(_parts(args.group))
    found = [each for each in read_hosts(args.hosts) if each.group[: len(group)] == group]
    return rank(plan, [Candidate(facts) for facts in found], policy)


def _rated(args: argparse.Namespace) -> tuple[Rating, ...]:
    client = AdminClient(args.data)
    path = Path(args.subject)
    if path.is_file():
        plan = planfile.to_json(planfile.read(path))
    elif _MIGRATION.fullmatch(args.subject):
        plan = client.call("GET", f"/migrations/{args.subject}")["plan"]
    else:
        raise UsageError(problem=f"'{args.subject}' is neither a plan's file nor a migration")
    body = {
        "plan": plan,
        "goal": args.goal,
        "weights": asdict(Weights.parse(args.weights)),
        "growth": args.growth,
        "group": _parts(args.group),
    }
    found = client.call("POST", "/placement", body)["ratings"]
    return tuple(Rating.from_json(each) for each in found)


def _parts(group: str) -> list[str]:
    return [part for part in group.split("/") if part]


# --- the table -----------------------------------------------------------------------------------


def _print_ratings(ratings: Sequence[Rating], explain: bool) -> None:
    """Print a line a host, and below it in words what the line does not say."""
    if not ratings:
        return
    header, *lines = table([_HEADER, *map(_row, ratings)], range(1, 5))
    print(header)
    for rating, line in zip(ratings, lines, strict=True):
        print_styled(line, "bold" if rating.stars else "dim")
        for text in _words(rating, explain):
            print_wrapped(text, "        ")


def _row(rating: Rating) -> tuple[str, ...]:
    """Return the cells of a host: its stars, and what would be free of each resource."""
    seen = f"{age(rating.age_s)}, {rating.samples}x" if rating.samples else ""
    terms = [_free(each) for each in rating.terms] or [""] * 4
    where = "/".join((*rating.group, rating.host))
    return (stars(rating.stars), *terms, seen, printable(where))


def _free(term: Term) -> str:
    return "-" if term.value is None else f"{term.value:.0%}"


def _words(rating: Rating, explain: bool) -> Iterator[str]:
    if explain:
        for term in rating.terms:
            yield term.text
        if rating.stars:
            yield f"together {rating.score:.2f} of 5, which makes {rating.stars:g} stars"
    if rating.stars and rating.storage:
        yield f"storage: {rating.storage}"
    for reason in rating.reasons:
        yield f"no stars: {reason.text}"
    for note in rating.notes:
        yield f"note: {note}"
    for better in rating.improvements:
        yield f"{better.change} -> {better.stars:g} stars"


def stars(count: float) -> str:
    """Return stars for any terminal: ``***1/2`` is three and a half."""
    return "*" * int(count) + ("1/2" if count % 1 else "") or "-"
