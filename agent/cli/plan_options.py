# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that make a plan, shared by `plan` and `migrate`."""

from __future__ import annotations

import argparse

from agent.cli.vm_options import LOAD_WINDOW_S, add_vm_options, vm_choices_from
from agent.inventory.collect import collect
from agent.plan import Choices, make_plan
from agent.vm import parse_name
from p2v.model.machine import Machine
from p2v.model.plan import Capture, Codec, ImageFormat, Plan
from p2v.model.units import parse_size


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `choices_from` reads."""
    group = parser.add_argument_group("what to capture, and how")
    group.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="NAME",
        help="a disk (sda, /dev/loop0) or image file; may be repeated",
    )
    group.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PARTITION",
        help="leave out the contents of a partition (sda3, disk.img:3); may be repeated",
    )
    state = group.add_mutually_exclusive_group()
    state.add_argument(
        "--live",
        action="store_true",
        help="capture the disks while they are written to (docs/live.md)",
    )
    state.add_argument(
        "--offline", action="store_true", help="nobody writes to the disks (default)"
    )
    group.add_argument(
        "--capture",
        choices=[item.value for item in Capture],
        default=Capture.AUTO.value,
        help="how, if live (default: auto): a change tracker in the kernel, LVM snapshots, or "
        "comparisons (scan), which only prepare what the p2v ISO finishes",
    )
    group.add_argument(
        "--name", type=parse_name, help="name of the migration (default: the machine's)"
    )
    group.add_argument(
        "--format",
        choices=[item.value for item in ImageFormat],
        default=ImageFormat.VHDX.value,
        help="format of the images (default: vhdx)",
    )
    group.add_argument(
        "--compress-image", action="store_true", help="qcow2 only: compressed clusters"
    )
    group.add_argument(
        "--all-blocks",
        action="store_true",
        help="copy free blocks and swap contents too: the image equals the disk bit for bit",
    )
    group.add_argument(
        "--codec",
        choices=[item.value for item in Codec],
        default=Codec.AUTO.value,
        help="compression on the wire (default: auto, by measurement)",
    )
    group.add_argument(
        "--bwlimit",
        type=parse_size,
        default=0,
        metavar="RATE",
        help="at most so many bytes a second on the wire (10M)",
    )
    group.add_argument(
        "--no-convert", action="store_true", help="leave the guest in the image as it is"
    )
    add_vm_options(parser)


def choices_from(args: argparse.Namespace) -> Choices:
    """Return the choices in `args`, a command line parsed with `add_plan_options`."""
    return Choices(
        disks=tuple(args.disk),
        exclude=tuple(args.exclude),
        name=args.name or "",
        format=ImageFormat(args.format),
        live=args.live or args.capture != Capture.AUTO,
        capture=Capture(args.capture),
        all_blocks=args.all_blocks,
        codec=Codec(args.codec),
        bwlimit=args.bwlimit,
        compress_image=args.compress_image,
        convert=not args.no_convert,
        vm=vm_choices_from(args),
    )


def plan_from(choices: Choices) -> Plan:
    """Look at the machine and return the plan for `choices`.

    Raises:
        NoSuchDiskError: a chosen disk does not exist.
        UsageError: see `agent.plan.make_plan`.
    """
    return make_plan(look_for(choices), choices)


def look_for(choices: Choices) -> Machine:
    """Return the machine with the chosen disks; with all of them where none is chosen.

    Raises:
        NoSuchDiskError: a chosen disk does not exist.
    """
    # Only a machine that is to be placed is watched: it takes seconds.
    return collect(choices.disks, LOAD_WINDOW_S if choices.vm.create else 0)
