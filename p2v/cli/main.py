# SPDX-License-Identifier: GPL-3.0-or-later
"""The `p2v` command: its verbs are the modules beside this one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from p2v.model.command import run_verbs

VERBS = {
    "serve": "run the converter that agents send their disks to",
    "pair": "print a one-time code that admits an agent",
    "migrations": "list, show or cancel migrations",
    "import": "take in a stream that an agent wrote to a disk",
    "hosts": "add, list and rate the hosts that virtual machines are made on",
    "script": "print the script that makes a virtual machine",
    "image": "describe, check or compare disk images",
    "convert": "make the guest in an image boot on Hyper-V or KVM",
    "rehearse": "start a throw-away copy of a guest and say how far it gets",
}
DESCRIPTION = "Moves physical servers into virtual machines."


def main(argv: Sequence[str] | None = None) -> int:
    """Run `p2v` with `argv`, by default the process's, and return its exit code."""
    return run_verbs("p2v", DESCRIPTION, VERBS, "p2v.cli", argv)


if __name__ == "__main__":
    sys.exit(main())
