# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent migrate`: carry out a plan, or go on with a migration that was interrupted."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.appliance.image import is_live_image
from agent.cli.plan_options import add_plan_options, choices_from, plan_from
from agent.cli.progress import format_time, make_display
from agent.job.controls import Controls
from agent.job.folder import Job
from agent.job.reporter import Reporter, reporting
from agent.live.cutover import parse_cutover
from agent.live.estimate import estimate
from agent.live.passes import format_seconds
from agent.live.settings import FREEZE_LIMIT_S, LiveSettings
from agent.migration import Outcome, Progress, default_options, find, migrate
from agent.plan import Choices
from agent.stream.converter import Converter
from agent.stream.transfer import Options
from p2v.model import planfile
from p2v.model.command import EXIT_WARNINGS, Parser, Subparsers, file_path, filled, printable
from p2v.model.errors import UsageError
from p2v.model.migration import Migration
from p2v.model.plan import Codec, Plan
from p2v.model.planfile import to_json
from p2v.model.units import format_size

MAX_FREEZE_LIMIT_S = 120.0
MAX_CONNECTIONS = 64


def register(subparsers: Subparsers) -> None:
    """Add the verb's parser."""
    parser = subparsers.add_parser(
        "migrate",
        help="capture disks and send them to a converter",
        description="Capture disks and write them as images, on a converter or in a folder here.",
        epilog="Example: p2v-agent migrate --server https://converter:8443 --live --disk sda",
    )
    parser.add_argument("--plan", metavar="FILE", type=file_path, help="carry out this plan file")
    parser.add_argument("--resume", metavar="ID", type=filled, help="go on with this migration")
    add_plan_options(parser)
    add_run_options(parser, cutover="now")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, no more")
    parser.set_defaults(run=run)


def add_run_options(parser: Parser, cutover: str) -> None:
    """Add where to, when to cut over (by default `cutover`), whom to trust and what to show."""
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--server", metavar="URL", help="the converter: https://HOST:PORT")
    target.add_argument("--to", metavar="DIR", type=file_path, help="write the images in DIR, here")
    target.add_argument(
        "--to-stream",
        metavar="DIR",
        type=file_path,
        help="write a stream in DIR, for 'p2v import' on a converter that is not reached from here",
    )
    live = parser.add_argument_group("disks that are written to meanwhile (--live)")
    live.add_argument(
        "--cutover",
        nargs="+",
        default=[cutover],
        metavar=("WHEN", "TIME"),
        help=f"when to freeze and finish: now, wait (for 'p2v-agent cutover'), at TIME, later "
        f"(with 'p2v-agent sync'); default: {cutover}",
    )
    live.add_argument(
        "--freeze-limit",
        type=float,
        default=FREEZE_LIMIT_S,
        metavar="SECONDS",
        help=f"end a freeze that takes longer (default: {FREEZE_LIMIT_S:g})",
    )
    trust = parser.add_argument_group("trust (secrets: a file, the environment, a prompt)")
    trust.add_argument("--code-file", metavar="FILE", type=file_path, help="holds a pairing code")
    trust.add_argument("--token-file", metavar="FILE", type=file_path, help="holds a token")
    trust.add_argument("--fingerprint", metavar="SHA256", default="", help="the converter's")
    parser.add_argument(
        "--job",
        metavar="DIR",
        type=file_path,
        help="report and take requests there (docs/tui.md; default: a new one in /run/p2v/jobs)",
    )
    parser.add_argument(
        "--connections",
        type=_connections,
        default=0,
        metavar="N",
        help=f"data connections to the converter, up to {MAX_CONNECTIONS} (default: by the cores)",
    )
    parser.add_argument(
        "--progress", choices=("auto", "json", "none"), default="auto", help="on stderr"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--verbose", action="store_true", help="log what happens to stderr")


def _connections(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to {MAX_CONNECTIONS}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    if _target(args) is None and not args.dry_run:
        raise UsageError(
            problem="say where to: --server URL, --to DIR for this machine, or --to-stream DIR"
        )
    if args.dry_run:
        return _dry_run(args)
    controls = Controls()
    target = str(_target(args))
    with reporting(Job(args.job) if args.job else None, target, controls) as reporter:
        outcome = _migrate(args, controls, reporter)
        reporter.finished(outcome)
    _print(args, outcome)
    if problem := outcome.migration.problem:
        print(f"p2v-agent: warning: {printable(problem)}", file=sys.stderr)
    for error in outcome.unreadable:
        print(f"p2v-agent: warning: {error}\n  {error.way_out}", file=sys.stderr)
    return outcome.exit_code


def _target(args: argparse.Namespace) -> str | Path | None:
    target: str | Path | None = args.server or args.to or args.to_stream
    return target


def _migrate(args: argparse.Namespace, controls: Controls, reporter: Reporter) -> Outcome:
    plan = None if args.resume else _plan(args)
    for warning in plan.warnings if plan else ():
        print(f"p2v-agent: warning: {printable(warning)}", file=sys.stderr)
    with contextlib.closing(_converter(args)) as converter, make_display(args.progress) as display:
        if plan is not None:
            _warn_of_hosts(converter, plan)
        named: list[str] = []

        def started(migration: Migration) -> None:
            named.append(migration.id)
            reporter.started(migration)
            _announce(args, migration)

        def watch(progress: Progress) -> None:
            display.show(progress)
            reporter.show(progress)

        plan = plan or find(converter, args.resume, watch=watch).plan
        reporter.planned(plan)
        try:
            outcome = migrate(
                converter,
                plan,
                resume=args.resume or "",
                options=lambda plan: _options(args, plan),
                watch=watch,
                started=started,
                controls=controls,
                live=live_settings(args),
            )
            _deliver_evidence(converter, outcome.migration.id)
        except BaseException:
            if controls.discard and named:
                converter.cancel(named[0])
            raise
        return outcome


def _deliver_evidence(converter: Converter, migration: str) -> None:
    """On the live image, send what the machine says of itself along with its disks."""
    if is_live_image():
        from agent.appliance import evidence

        if trouble := evidence.deliver(partial(converter.keep_evidence, migration)):
            print(f"p2v-agent: warning: {trouble}", file=sys.stderr)


def _warn_of_hosts(converter: Converter, plan: Plan) -> None:
    """Say beforehand if no machine could be made as things are."""
    from agent.hosts import doubts_of_hosts

    if doubts := doubts_of_hosts(converter, plan):
        print(f"p2v-agent: warning: {doubts[0]}", *doubts[1:], sep="\n  ", file=sys.stderr)


def _plan(args: argparse.Namespace) -> Plan:
    if args.plan is None:
        return plan_from(choices_from(args))
    if choices_from(args) != Choices(disks=()):
        raise UsageError(problem="a plan file says what to do; leave the options of 'plan' out")
    return planfile.read(args.plan)


def live_settings(args: argparse.Namespace) -> LiveSettings:
    """Return what the command line says of disks that are written to.

    Raises:
        UsageError: it makes no sense.
    """
    if not 0 < args.freeze_limit <= MAX_FREEZE_LIMIT_S:
        raise UsageError(
            problem=f"--freeze-limit {args.freeze_limit:g}: a freeze of up to "
            f"{MAX_FREEZE_LIMIT_S:g} seconds can be allowed"
        )
    return LiveSettings(
        parse_cutover(args.cutover), args.freeze_limit, folder=args.to or args.to_stream
    )


def _options(args: argparse.Namespace, plan: Plan) -> Options:
    options = default_options(plan)
    if options.codec is Codec.AUTO and args.to is not None:
        options = replace(options, codec=Codec.NONE)  # nothing to be saved on the way to a folder
    return replace(options, lanes=args.connections)


def _converter(args: argparse.Namespace) -> Converter:
    if args.to is not None:
        from agent.stream.local import LocalConverter

        return LocalConverter(args.to)
    if args.to_stream is not None:
        from agent.stream.folder import FolderConverter

        return FolderConverter(args.to_stream)
    from agent.credentials import find_credentials
    from agent.stream.remote import Address, RemoteConverter

    address = Address.parse(args.server)
    credentials = find_credentials(
        address,
        fingerprint=args.fingerprint,
        token_file=args.token_file,
        code_file=args.code_file,
        ask=_ask if sys.stdin.isatty() else None,
    )
    return RemoteConverter(address, credentials)


def _ask() -> str:
    return getpass.getpass("Pairing code ('p2v pair' on the converter prints one): ")


def _announce(args: argparse.Namespace, migration: Migration) -> None:
    if not args.json:
        target = _target(args)
        print(f"migration {migration.id}", file=sys.stderr)
        if not args.resume:
            where = "--server" if args.server else "--to" if args.to else "--to-stream"
            print(
                f"  if interrupted: p2v-agent migrate {where} {target} --resume {migration.id}",
                file=sys.stderr,
            )


def _dry_run(args: argparse.Namespace) -> int:
    if args.resume:
        raise UsageError(problem="--dry-run shows what a plan would do; a resume has one already")
    plan = _plan(args)
    expected = estimate(plan) if plan.live else None
    warned = bool(plan.warnings or (expected and expected.outrun))
    if args.json:
        more = {"estimate": expected.as_dict()} if expected else {}
        print(json.dumps({"plan": to_json(plan), **more}, indent=2))
        return EXIT_WARNINGS if warned else 0
    print(f"would migrate {plan.name} as {plan.format}:")
    for disk in plan.disks:
        print(f"  {disk.path}  {format_size(disk.size)}  {disk.table}  {disk.model}".rstrip())
        for part in disk.partitions:
            name = part.name or f"partition {part.number}"
            what = f"{part.treatment}: {part.reason}" if part.reason else str(part.treatment)
            print(f"    {name:<16} {format_size(part.size):>10}  {part.content:<12} {what}")
    for warning in plan.warnings:
        print(f"  warning: {warning}")
    if expected:
        print(f"  {'warning: ' if expected.outrun else ''}live: {expected.describe()}")
    return EXIT_WARNINGS if warned else 0


def _print(args: argparse.Namespace, outcome: Outcome) -> None:
    migration, counters = outcome.migration, outcome.counters
    if args.json:
        document = {
            "schema": 1,
            "migration": migration.id,
            "state": migration.state.value,
            "images": list(migration.images),
            "problem": migration.problem,
            "seconds": round(outcome.seconds, 3),
            "counters": counters.as_dict(),
            "notes": list(outcome.notes),
            "unreadable": migration.report.get("unreadable", []),
            **outcome.report,
        }
        print(json.dumps(document, indent=2))
        return
    total = sum(disk.size for disk in migration.plan.disks)
    rate = format_size(total / max(outcome.seconds, 0.001))
    print(f"migration {migration.id} is {migration.state} after {format_time(outcome.seconds)}")
    print(f"  disks     {format_size(total)}, {format_size(counters.read)} read, {rate}/s in all")
    print(f"  wire      {format_size(counters.wire)} for {format_size(counters.sent)} of data")
    skipped = f"{format_size(counters.zero)} zeros or free"
    if counters.same:
        skipped += f", {format_size(counters.same)} were there already"
    print(f"  skipped   {skipped}")
    if live := outcome.report.get("live"):
        _print_live(live)
    if not migration.state.final:
        print(f"  open      go on with 'p2v-agent sync {migration.id}', which finishes with")
        print("            '--cutover now'")
    for note in outcome.notes:
        print(f"  note      {note}")
    for image in migration.images:
        print(f"  image     {image}")
    if migration.plan.vm is not None and migration.plan.vm.create:
        print("  machine   the converter makes it of these now; there")
        print(f"            'p2v migrations show {migration.id}' tells what comes of it")


def _print_live(live: dict[str, Any]) -> None:
    passes = f"{len(live['passes'])} passes"
    if live["freeze_s"] is not None:
        passes += f", then frozen for {format_seconds(live['freeze_s'])}"
    print(f"  live      {passes}")
    for trouble in live["troubles"]:
        print(f"  trouble   {trouble}")
