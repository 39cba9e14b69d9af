# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v image`: describe, check or compare disk images (the documents: docs/json.md)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from p2v.cli.output import print_json, print_pairs, print_styled, size
from p2v.cli.progress import add_progress_option, progress
from p2v.images.check import ImageInfo, Report, Severity, check_image, inspect_image
from p2v.images.check.report import EXIT_CLEAN
from p2v.images.check.source import require_images
from p2v.model.command import EXIT_WARNINGS, Subparsers, file_path, printable
from p2v.model.errors import ImageError, UsageError
from p2v.model.extent import Extent
from p2v.model.units import parse_size

if TYPE_CHECKING:
    from p2v.images.compare import Comparison

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
_SHOWN_RANGES = 20


def register(subparsers: Subparsers) -> None:
    """Add `image` and what it can do."""
    parser = subparsers.add_parser("image", description="Describe, check or compare disk images.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    info = actions.add_parser("info", help="say what an image is and holds")
    info.add_argument("files", metavar="FILE", nargs="+", type=file_path, help="VHDX, qcow2 or raw")
    info.set_defaults(run=run_info)

    check = actions.add_parser(
        "check",
        help="hold an image against its format, strictly",
        epilog="Exit code 0: nothing found; 3: warnings only; 50: errors.",
    )
    check.add_argument(
        "files", metavar="FILE", nargs="+", type=file_path, help="VHDX, qcow2 or raw"
    )
    check.add_argument(
        "--deep", action="store_true", help="read all data back and decompress every cluster"
    )
    check.set_defaults(run=run_check)

    compare = actions.add_parser(
        "compare",
        help="compare the disks in two images or devices byte by byte",
        epilog="Exit code 0: the same; 50: they differ.",
    )
    compare.add_argument("a", metavar="A", type=file_path, help="an image or a device")
    compare.add_argument("b", metavar="B", type=file_path, help="another, of any format")
    compare.add_argument(
        "--ignore",
        metavar="OFFSET:LENGTH",
        action="append",
        default=[],
        type=_range,
        help="leave a range out, for a partition that was excluded; may be repeated",
    )
    compare.set_defaults(run=run_compare)

    for action in (check, compare):
        add_progress_option(action)
    for action in (info, check, compare):
        action.add_argument("--json", action="store_true", help="print one JSON document")


# --- info ----------------------------------------------------------------------------------------


def run_info(args: argparse.Namespace) -> int:
    """Print what each image is."""
    facts = [inspect_image(path) for path in args.files]
    if args.json:
        print_json({"images": facts})
        return EXIT_CLEAN
    for info in facts:
        print_styled(f"{info.path}", "bold")
        print_pairs(_info_pairs(info))
    return EXIT_CLEAN


def _info_pairs(info: ImageInfo) -> list[tuple[str, str]]:
    sectors = f"{info.logical_sector} logical, {info.physical_sector} physical"
    return [
        ("format", f"{info.format} ({info.variant})"),
        ("virtual size", size(info.virtual_size)),
        ("stored", size(info.allocated)),
        ("file size", size(info.file_size)),
        ("on disk", size(info.disk_usage)),
        ("block size", size(info.block_size) if info.block_size else ""),
        ("sector sizes", sectors),
        ("disk id", info.disk_id),
        ("creator", info.creator),
        ("parent", info.parent),
        ("state", "INCOMPLETE: a migration into it has not finished" if info.incomplete else ""),
    ]


# --- check ---------------------------------------------------------------------------------------


def run_check(args: argparse.Namespace) -> int:
    """Check each image and print what was found; return the worst verdict."""
    require_images(args.files)
    reports = []
    for path in args.files:
        with progress(args.progress if args.deep else "none", f"check {path.name}") as advance:
            reports.append(check_image(path, deep=args.deep, progress=advance))
    if args.json:
        print_json({"images": [_report_document(report) for report in reports]})
    else:
        for report in reports:
            _print_report(report)
    return max(report.exit_code for report in reports)


def _verdict(report: Report) -> str:
    if report.incomplete:
        return "incomplete"
    return {EXIT_CLEAN: "clean", EXIT_WARNINGS: "warnings"}.get(report.exit_code, "errors")


def _report_document(report: Report) -> dict[str, object]:
    return {
        "path": report.path,
        "format": report.format,
        "verdict": _verdict(report),
        "deep": report.deep,
        "errors": report.errors,
        "warnings": report.warnings,
        "findings": report.findings,
        "counts": report.counts,
        "info": report.info,
    }


def _print_report(report: Report) -> None:
    shown: dict[str, int] = {}
    for finding in report.findings:
        place = "" if finding.offset is None else f" at byte {finding.offset}"
        text = f"  {finding.severity:<7} {finding.code}{place}: {finding.message}"
        print_styled(text, _STYLES[finding.severity])
        shown[finding.code] = shown.get(finding.code, 0) + 1
    for code, count in report.counts.items():
        if count > shown.get(code, 0):
            print(f"  ... and {count - shown.get(code, 0)} more of {code}")
    text = {
        "clean": "no errors found",
        "warnings": f"no errors, {_plural(report.warnings, 'warning')}",
        "incomplete": "INCOMPLETE: a migration into it has not finished",
        "errors": f"{_plural(report.errors, 'error')}, {_plural(report.warnings, 'warning')}",
    }[_verdict(report)]
    style = {EXIT_CLEAN: "green", EXIT_WARNINGS: "yellow"}.get(report.exit_code, "bold red")
    print_styled(f"{report.path}: {report.format}: {text}", style)


# --- compare -------------------------------------------------------------------------------------


def run_compare(args: argparse.Namespace) -> int:
    """Compare two disks and print where they differ."""
    # Imported here: a check runs without the readers that it is meant to judge.
    from p2v.images.compare import compare_images

    require_images((args.a, args.b))
    with progress(args.progress, "compare") as advance:
        result = compare_images(args.a, args.b, advance, args.ignore)
    if args.json:
        print_json(_comparison_document(args, result))
    else:
        _print_comparison(args, result)
    return EXIT_CLEAN if result.same else ImageError.exit_code


def _comparison_document(args: argparse.Namespace, result: Comparison) -> dict[str, object]:
    return {
        "a": {"path": args.a, "size": result.size_a},
        "b": {"path": args.b, "size": result.size_b},
        "same": result.same,
        "compared": result.compared,
        "skipped": result.skipped,
        "ignored": result.ignored,
        "differing": result.differing,
        "count": result.count,
        "ranges": [{"offset": one.offset, "length": one.length} for one in result.ranges],
    }


def _print_comparison(args: argparse.Namespace, result: Comparison) -> None:
    for one in result.ranges[:_SHOWN_RANGES]:
        print(f"  differ from byte {one.offset} on: {one.length} bytes")
    if result.count > _SHOWN_RANGES:
        print(f"  ... and {result.count - _SHOWN_RANGES} more ranges")
    if result.size_a != result.size_b:
        longer, rest = (args.a, result.size_a - result.size_b)
        if rest < 0:
            longer, rest = (args.b, -rest)
        print(f"  note: {printable(str(longer))} is {rest} bytes longer; held against zeros")
    read = f"{size(result.compared)} compared, {size(result.skipped)} zeros in both"
    if result.ignored:
        read += f", {size(result.ignored)} ignored"
    if result.same:
        print_styled(f"same contents: {read}", "green")
    else:
        where = f"{size(result.differing)} in {_plural(result.count, 'range')}"
        print_styled(f"DIFFERENT: {where}; {read}", "bold red")


def _range(text: str) -> Extent:
    offset, _, length = text.partition(":")
    try:
        return Extent(0 if offset == "0" else parse_size(offset), parse_size(length))
    except UsageError as error:
        problem = f"'{text}' is no range; write it like 1M:512M"
        raise argparse.ArgumentTypeError(problem) from error


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
