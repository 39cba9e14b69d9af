# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent evidence`: save what the kernel and the hardware say of themselves."""

from __future__ import annotations

import argparse
import contextlib
import json

from agent.appliance import evidence, sticks
from p2v.model.command import Subparsers, file_path
from p2v.model.errors import UsageError


def register(subparsers: Subparsers) -> None:
    """Add `evidence`."""
    parser = subparsers.add_parser(
        "evidence",
        help="save what the kernel and the hardware say of themselves",
        description="Save the kernel's log, the lists of devices, SMART, SMBIOS and the inventory "
        "as one tar.gz. Secrets of the kernel's command line are left out.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="DIR", type=file_path, help="into this folder")
    where.add_argument(
        "--stick",
        metavar="LABEL",
        nargs="?",
        const=sticks.DATA_LABEL,
        help=f"onto the file system with this label (default: {sticks.DATA_LABEL})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    with contextlib.ExitStack() as stack:
        folder = args.to
        if folder is None:
            folder = stack.enter_context(sticks.mounted(args.stick, writable=True))
            if folder is None:
                raise UsageError(problem=f"no disk has a file system labelled {args.stick}")
        try:
            path = evidence.save(folder)
        except OSError as error:
            raise UsageError(problem=f"{folder} can't be written: {error.strerror}") from None
        size = path.stat().st_size
    if args.json:
        print(json.dumps({"schema": 1, "path": str(path), "size": size}))
    else:
        print(f"{path} ({size} bytes)")
    return 0
