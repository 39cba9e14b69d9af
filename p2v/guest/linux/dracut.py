# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: dracut (Red Hat's and SUSE's families) puts the VM's drivers into every initramfs.

Its images are host-only by default: they hold the drivers of the machine that they were made on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, RunProgram, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux import initramfs_tools
from p2v.guest.linux.rebuild import TIMEOUT_S, kernels, modules, reason, room_problem
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem

CONFIGURATION = "/etc/dracut.conf.d/p2v.conf"
FILES: tuple[str, ...] = (CONFIGURATION,)
PATHS: tuple[str, ...] = ("/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut")


def detect(facts: GuestFacts, target: Target) -> bool:
    """Return whether the guest makes its initramfs with dracut."""
    found = any(linux(facts).has(path) for path in PATHS)
    return found and not initramfs_tools.detect(facts, target)


def plan(facts: GuestFacts, target: Target, planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield the configuration and a run for each kernel."""
    why = reason(facts, target, planned)
    if not why:
        return
    if (problem := room_problem(facts)) is not None:
        yield problem
    if drivers := modules(facts, target):
        yield Edit(
            Area.DRIVERS,
            f"name {', '.join(drivers)} in {CONFIGURATION}",
            "dracut takes the drivers of the machine that it runs on, which was another one",
            WriteFile(CONFIGURATION, f'add_drivers+=" {" ".join(drivers)} "\n'),
        )
    for kernel in kernels(facts, target):
        yield Edit(
            Area.DRIVERS,
            f"make the initramfs of {kernel.version} anew",
            why,
            RunProgram(("dracut", "--force", kernel.initramfs, kernel.version), TIMEOUT_S),
        )


def check(_appliance: Appliance, _facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Yield nothing: the drivers in each initramfs are checked for all tools alike."""
    return iter(())
