# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v rehearse`: start a throw-away copy of a guest and say how far it gets."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2v.cli.output import print_json, print_pairs, print_styled
from p2v.guest.rehearsal.machine import Bus
from p2v.guest.rehearsal.rehearse import Options, Outturn, rehearse
from p2v.guest.rehearsal.watch import Tell
from p2v.guest.report import Rehearsal, add_rehearsal, load_report, report_path
from p2v.guest.report_page import write_page
from p2v.guest.target import Platform, Target
from p2v.model.command import Subparsers, file_path, printable
from p2v.model.errors import RehearsalFailedError, UsageError, reason
from p2v.model.machine import FirmwareKind
from p2v.model.units import GiB, MiB, parse_size

_EXIT_LOGIN = 0
_LEAST_MEMORY = 128 * MiB
_LINE_EVERY_S = 1.0


def register(subparsers: Subparsers) -> None:
    """Add `rehearse`."""
    parser = subparsers.add_parser(
        "rehearse",
        description="Start a throw-away overlay of a guest under QEMU, with no network, and say "
        "how far it gets. Nothing is written to the images.",
        epilog="Exit code 0: it reached its login prompt; 64: it did not (docs/rehearsal.md).",
    )
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", type=file_path, help="the guest's disks"
    )
    parser.add_argument(
        "--firmware",
        choices=[each.value for each in FirmwareKind],
        help="by default what the partition table says",
    )
    parser.add_argument(
        "--bus",
        choices=[each.value for each in Bus],
        help="what the disks are attached to; by default what the guest finds them on",
    )
    parser.add_argument(
        "--target",
        choices=[each.value for each in Platform],
        help="what the guest was converted for; by default what its report says",
    )
    parser.add_argument("--secure-boot", action="store_true", help="with Microsoft's keys enrolled")
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        type=file_path,
        help="typed when the guest asks for one",
    )
    parser.add_argument(
        "--memory", metavar="SIZE", type=parse_size, default=2 * GiB, help="of the guest (2G)"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        help="of one start; by default 300, and 900 where there is no KVM",
    )
    parser.add_argument(
        "--screenshot", metavar="DIR", type=file_path, help="keep screen.png and console.log there"
    )
    parser.add_argument(
        "--progress",
        choices=("auto", "json", "none"),
        default="auto",
        help="on stderr: what the guest shows, as text on a terminal and JSON lines otherwise",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Rehearse, add the verdict to the guest's report if it has one, and print it."""
    options = _options(args, _target(args.images[0]))
    if args.screenshot is not None:
        _make_folder(args.screenshot)
    with _telling(args.progress) as tell:
        outturn = rehearse(args.images, options, tell)
    if args.screenshot is not None:
        _keep(args.screenshot, outturn)
    report = add_rehearsal(args.images[0], outturn.rehearsal)
    page = write_page(report) if report else None
    if args.json:
        print_json({"images": args.images, "page": page, "rehearsal": outturn.rehearsal})
    else:
        _print(args.images[0], outturn.rehearsal, page)
    return _EXIT_LOGIN if outturn.verdict.reached_login else RehearsalFailedError.exit_code


def _target(image: Path) -> Target | None:
    """Return what the guest was converted for, by its report; None if it has none."""
    path = report_path(image)
    return load_report(path).target if path.exists() else None


def _options(args: argparse.Namespace, target: Target | None) -> Options:
    firmware = FirmwareKind(args.firmware) if args.firmware else None
    platform = Platform(args.target) if args.target else None
    if target is not None:
        firmware, platform = firmware or target.firmware, platform or target.platform
    if args.memory < _LEAST_MEMORY:
        raise UsageError(problem="--memory must be 128M at least")
    if args.timeout is not None and not 0 < args.timeout < float("inf"):
        raise UsageError(problem="--timeout must be a number of seconds above 0")
    return Options(
        firmware=firmware,
        bus=Bus(args.bus) if args.bus else None,
        platform=platform,
        timeout_s=args.timeout,
        passphrase=_passphrase(args.passphrase_file) if args.passphrase_file else "",
        memory=args.memory,
        secure_boot=args.secure_boot,
    )


def _passphrase(path: Path) -> str:
    try:
        words = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            problem=f"--passphrase-file {path} can't be read: {reason(error)}"
        ) from error
    if not words or not words[0].isascii() or not words[0].isprintable():
        raise UsageError(problem=f"--passphrase-file {path}: its first line must be plain ASCII")
    return words[0]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(problem=f"--screenshot {path}: {error.strerror}") from error


def _keep(folder: Path, outturn: Outturn) -> None:
    (folder / "console.log").write_text(outturn.console, errors="replace")
    if outturn.picture is not None:
        (folder / "screen.png").write_bytes(outturn.picture.png())


def _print(image: Path, rehearsal: Rehearsal, page: Path | None) -> None:
    style = "green" if rehearsal.verdict == "login" else "bold red"
    print_styled(f"{image}: {rehearsal.verdict}: {rehearsal.text}", style)
    tried = "; ".join(f"{one.bus}: {one.verdict}" for one in rehearsal.attempts)
    print_pairs(
        [
            ("firmware", rehearsal.firmware),
            ("disks on", tried),
            ("accelerator", rehearsal.accelerator),
            ("seconds", f"{rehearsal.seconds:.0f}"),
            ("report", str(page) if page else ""),
        ]
    )
    if rehearsal.verdict != "login":
        print("  the last it showed:")
        for line in rehearsal.evidence[-12:]:
            print(f"    {printable(line)}")
    for concern in rehearsal.concerns:
        print_styled(f"  failed on the way: {concern}", "yellow")
    for limit in rehearsal.limits:
        print_styled(f"  {limit}", "dim")


@contextmanager
def _telling(mode: str) -> Iterator[Tell | None]:
    """Give what shows people or programs where the guest is; None where nothing shall be shown."""
    if mode == "none":
        yield None
    elif mode == "json" or not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text("starting the guest")) as status:
            yield lambda line: status.update(Text(printable(line)[:120]))


class _Lines:
    """Writes a JSON line a second at most."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._next = 0.0

    def __call__(self, shown: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_EVERY_S
            seconds = round(now - self._started, 1)
            line = {"type": "progress", "task": "rehearse", "seconds": seconds, "shown": shown}
            print(json.dumps(line), file=sys.stderr, flush=True)
