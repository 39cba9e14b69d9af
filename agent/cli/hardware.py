# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent hardware`: devices that nothing drives, and drivers brought along on a stick."""

from __future__ import annotations

import argparse
import json

from agent.appliance.hardware import Hardware, check_hardware, load_from
from p2v.model.command import Subparsers, file_path, printable
from p2v.model.errors import UsageError

EXIT_FOUND = 3


def register(subparsers: Subparsers) -> None:
    """Add `hardware`."""
    parser = subparsers.add_parser(
        "hardware",
        help="list devices without a driver, and firmware that is missing",
        description="List disk, network and USB devices without a driver, and firmware that "
        "drivers asked for in vain. Ends with 3 if there are any.",
    )
    parser.add_argument(
        "--load",
        metavar="DIR",
        type=file_path,
        help="first install DIR/firmware and DIR/drivers on the running system (docs/iso.md)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    loaded: list[str] = []
    if args.load is not None:
        if not args.load.is_dir():
            raise UsageError(problem=f"{args.load} is no folder")
        loaded = load_from(args.load)
    found = check_hardware()
    if args.json:
        print(json.dumps(found.to_json() | {"loaded": loaded}, indent=2))
    else:
        for name in loaded:
            print(f"loaded {printable(name)}")
        _print(found)
    return EXIT_FOUND if found.undriven or found.missing_firmware else 0


def _print(found: Hardware) -> None:
    for device in found.undriven:
        print(printable(f"{device.kind} without a driver: {device.bus} {device.id} {device.name}"))
        print(f"  {device.advice}")
    for name in found.missing_firmware:
        print(f"firmware missing: {name}")
    if not found.undriven and not found.missing_firmware:
        print("Every disk, network and USB controller has a driver; no firmware is missing.")
