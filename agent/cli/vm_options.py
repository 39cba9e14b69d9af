# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that say which virtual machine is made, and where; shared by `plan` and `migrate`."""

from __future__ import annotations

import argparse

from agent.vm import (
    BEST,
    OTHERS,
    VmChoices,
    parse_connection,
    parse_cpus,
    parse_host,
    parse_memory_size,
)
from p2v.model.machine import FirmwareKind

LOAD_WINDOW_S = 5.0
"""How long the source is watched for what the virtual machine will ask of its host."""


def add_vm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `vm_choices_from` reads."""
    group = parser.add_argument_group("the virtual machine (docs/hosts.md)")
    group.add_argument(
        "--host",
        metavar=f"NAME|{BEST}",
        default="",
        help="have the converter make the machine on this host, or on the one with most stars",
    )
    group.add_argument("--storage", default="", help="the host's datastore, pool or folder")
    group.add_argument(
        "--cpus",
        type=parse_cpus,
        default=0,
        metavar="N",
        help="virtual processors, 1 to 240 (default: as here)",
    )
    group.add_argument(
        "--memory",
        type=parse_memory_size,
        default=0,
        metavar="SIZE",
        help="as 4G or 512M, binary (default: as here)",
    )
    group.add_argument(
        "--firmware",
        choices=[kind.value for kind in FirmwareKind],
        help="default: what the disks start by; on Hyper-V bios is generation 1, uefi 2",
    )
    group.add_argument(
        "--network",
        action="append",
        default=[],
        type=parse_connection,
        metavar="NIC=NETWORK[:VLAN]",
        help="connect an interface of this machine (its name or MAC, or "
        f"'{OTHERS}': all others) to the host's network; may be repeated",
    )
    group.add_argument(
        "--unplugged", action="store_true", help="leave cables out until somebody looked at it"
    )
    group.add_argument("--clustered", action="store_true", help="make it highly available")
    group.add_argument("--power-on", action="store_true", help="start it when it is made")


def vm_choices_from(args: argparse.Namespace) -> VmChoices:
    """Return the choices in `args`, a command line parsed with `add_vm_options`."""
    create, host = parse_host(args.host)
    return VmChoices(
        create=create,
        host=host,
        storage=args.storage,
        cpus=args.cpus,
        memory=args.memory,
        firmware=FirmwareKind(args.firmware) if args.firmware else None,
        networks=tuple(args.network),
        connected=not args.unplugged,
        clustered=args.clustered,
        power_on=args.power_on,
    )
