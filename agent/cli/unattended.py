# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v-agent unattended`: what the live image does by itself when it was told to at its start."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from agent import tools
from p2v.model.command import Subparsers, printable

FLAG = Path("/run/p2v/unattended")
"""Exists while something was confirmed: the consoles then show it in place of the wizard."""


def register(subparsers: Subparsers) -> None:
    """Add `unattended`."""
    parser = subparsers.add_parser(
        "unattended",
        help="on the live image: do what was confirmed at its start",
        description="Carry out the migration that the kernel's command line (p2v.*) or an answer "
        "file confirms; docs/iso.md describes both. Without p2v.confirm=yes nothing is done.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    from agent.appliance import gather, network

    for name in gather.load_drivers():
        print(f"loaded {printable(name)}")
    settings = gather.from_here()
    if settings.confirm:
        FLAG.parent.mkdir(parents=True, exist_ok=True)
        FLAG.touch()
    _ready()
    network.set_up(settings)
    if not settings.confirm:
        print("nothing was confirmed (p2v.confirm=yes): the wizard waits for somebody")
        return 0
    # Imported late: the wizard waits for what comes before.
    from agent.appliance import unattended

    return unattended.run(settings)


def _ready() -> None:
    """Tell systemd that it is known what the consoles are to show."""
    if "NOTIFY_SOCKET" in os.environ:
        tools.run(["systemd-notify", "--ready"])
