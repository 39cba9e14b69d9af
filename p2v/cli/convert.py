# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v convert`: make the guest in an image boot on Hyper-V or KVM."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from p2v.cli.output import print_pairs, print_styled
from p2v.cli.progress import add_progress_option
from p2v.guest.target import NicAddress, Platform
from p2v.images.check.source import require_images
from p2v.model.command import Subparsers, file_path, printable
from p2v.model.errors import ConversionFailedError, ConversionRefusedError, UsageError, reason
from p2v.model.machine import FirmwareKind, Severity
from p2v.model.units import format_size

if TYPE_CHECKING:
    from p2v.guest.convert import Progress
    from p2v.guest.report import Report

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}
_MAX_PASSPHRASES = 64


def register(subparsers: Subparsers) -> None:
    """Add `convert`."""
    parser = subparsers.add_parser(
        "convert",
        description="Make the guest in an image boot on Hyper-V or KVM. The image is edited in "
        "place, and only when every check has passed.",
        epilog="Several images are the disks of one guest. Exit code 0: converted, or nothing to "
        "do; 62: refused; 63: failed. In both cases the image is as it was.",
    )
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        type=file_path,
        help="VHDX, qcow2, raw or VMDK; of a VMDK a copy beside it",
    )
    parser.add_argument(
        "--target",
        required=True,
        choices=[platform.value for platform in Platform],
        help="the hypervisor",
    )
    parser.add_argument(
        "--firmware",
        choices=[kind.value for kind in FirmwareKind],
        help="of the VM (Hyper-V: bios is generation 1, uefi 2); by default what the guest needs",
    )
    parser.add_argument("--root", default="", metavar="DEVICE", help="the system, of several")
    parser.add_argument(
        "--nic",
        action="append",
        default=[],
        type=_nic,
        metavar="NAME=MAC",
        help="a network interface of the source, which the VM's keeps; may be repeated",
    )
    parser.add_argument(
        "--passphrase-file",
        type=file_path,
        metavar="FILE",
        help="passphrases of encrypted volumes, one a line",
    )
    parser.add_argument(
        "--virtio-win",
        type=file_path,
        metavar="PATH",
        help="folder or ISO with Windows drivers for virtio (KVM)",
    )
    parser.add_argument("--dry-run", action="store_true", help="plan only; write nothing")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_progress_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert the guest and print the report; return the exit code."""
    from p2v.guest.convert import Request, convert
    from p2v.guest.report import Verdict
    from p2v.guest.windows.virtio import unpacked

    with _progress(args.progress) as tell, unpacked(args.virtio_win) as drivers:
        request = Request(
            images=tuple(args.images),
            platform=Platform(args.target),
            firmware=FirmwareKind(args.firmware) if args.firmware else None,
            root=args.root,
            nics=tuple(args.nic),
            drivers=drivers,
            passphrases=_passphrases(args.passphrase_file),
            dry_run=args.dry_run,
        )
        require_images(args.images)
        if len({image.resolve() for image in args.images}) < len(args.images):
            raise UsageError(problem="an image is given twice; each is one disk of the guest")
        report = convert(request, tell)
    if args.json:
        print(report.to_json(), end="")
    else:
        _print(report)
    codes = {
        Verdict.REFUSED: ConversionRefusedError.exit_code,
        Verdict.FAILED: ConversionFailedError.exit_code,
    }
    return codes.get(report.verdict, 0)


def _print(report: Report) -> None:
    """Print what people want to know: the guest, each edit with its reason, and how it ended."""
    if report.found is not None:
        system = report.found.system
        generation = report.target.generation
        where = f"generation {generation}" if generation else str(report.target.firmware)
        print_styled(system.name, "bold")
        print_pairs(
            [
                ("host name", system.hostname),
                ("root", system.root),
                ("target", f"{report.target.platform}, {where}"),
                *((detail.name, detail.value) for detail in report.found.details),
            ]
        )
    for edit in report.edits:
        mark = "done" if edit.done else "plan"
        print(f"  {mark}  {edit.area}: {printable(edit.what)}")
        print(f"        {printable(edit.reason)}")
    for check in report.checks:
        text = f"  {'ok' if check.passed else 'BAD':<4}  {check.name}: {check.evidence}"
        print_styled(text, "" if check.passed else "bold red")
    for problem in report.problems:
        text = f"  {problem.severity}  {problem.subject}: {problem.message} {problem.action}"
        print_styled(text.rstrip(), _STYLES[problem.severity])
    good = report.verdict in ("planned", "converted", "unchanged")
    print_styled(f"{report.verdict}: {report.summary}", "green" if good else "bold red")
    if report.hint:
        print(f"  {printable(report.hint)}")
    if report.written:
        print(f"  {format_size(report.written)} of the disk changed, {report.seconds:.0f} s")


def _nic(text: str) -> NicAddress:
    name, _, mac = text.partition("=")
    if not name or re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", mac) is None:
        problem = f"'{text}' is no interface; write it like eno1=52:54:00:12:34:56"
        raise argparse.ArgumentTypeError(problem)
    return NicAddress(name, mac.lower().replace("-", ":"))


def _passphrases(path: Path | None) -> tuple[str, ...]:
    """Return the lines of a file of passphrases.

    Raises:
        UsageError: it can't be read, or is no such file.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(problem=f"{path} can't be read as passphrases: {reason(error)}") from None
    if len(lines) > _MAX_PASSPHRASES:
        raise UsageError(problem=f"{path} has more than {_MAX_PASSPHRASES} lines")
    return tuple(line for line in lines if line)


@contextmanager
def _progress(mode: str) -> Iterator[Progress | None]:
    """Give what shows the stages: a line on a terminal, JSON lines otherwise."""
    if mode == "none":
        yield None
        return
    lines = mode == "json" or not sys.stderr.isatty()
    shown = _Stages(lines)
    try:
        yield shown
    finally:
        shown.end()


class _Stages:
    """Shows what is being done, once a stage or second."""

    def __init__(self, lines: bool) -> None:
        self._lines = lines
        self._last = ("", 0.0)

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        stage, at = self._last
        if what == stage and now < at + 1 and done < total:
            return
        self._last = (what, now)
        if self._lines:
            line = {"type": "progress", "task": what, "done": done, "total": total}
            print(json.dumps(line), file=sys.stderr, flush=True)
            return
        share = f" {done}/{total}" if total else ""
        print(f"\r\x1b[K{printable(what)}{share} ...", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if not self._lines and self._last[0]:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
