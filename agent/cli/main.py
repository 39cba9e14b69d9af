# SPDX-License-Identifier: GPL-3.0-or-later
"""The `p2v-agent` command: its verbs are the modules beside this one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from p2v.model.command import run_verbs

VERBS = {
    "tui": "choose what to migrate on screens, and watch it",
    "inventory": "show what this machine is made of",
    "plan": "print the plan of a migration, for review and for 'migrate --plan'",
    "migrate": "stream disks to a converter, or into a folder",
    "cutover": "finish a migration that waits for it",
    "sync": "bring the image of a migration up to date, later or after a reboot",
    "hardware": "list devices without a driver, and firmware that is missing",
    "evidence": "save what the kernel and the hardware say of themselves",
    "unattended": "on the live image: do what was confirmed at its start",
}
DESCRIPTION = "Captures this physical machine's disks for a virtual machine."


def main(argv: Sequence[str] | None = None) -> int:
    """Run `p2v-agent` with `argv`, by default the process's, and return its exit code."""
    return run_verbs("p2v-agent", DESCRIPTION, VERBS, "agent.cli", argv)


if __name__ == "__main__":
    sys.exit(main())
