# SPDX-License-Identifier: GPL-3.0-or-later
"""Check an edited Linux guest: drivers in every initramfs, and what each step looks up."""

from __future__ import annotations

from collections.abc import Iterator

from p2v.guest.appliance import Appliance
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.drivers import BOOT, unfit
from p2v.guest.linux.facts import DriverState, Kernel
from p2v.guest.linux.kernels import modules_in
from p2v.guest.linux.rebuild import wanted
from p2v.guest.linux.steps import linux, load_steps
from p2v.guest.report import Check
from p2v.guest.target import Target


def check(appliance: Appliance, facts: GuestFacts, target: Target) -> Iterator[Check]:
    """Yield what was looked up in the edited guest."""
    for kernel in linux(facts).kernels:
        if kernel.image and not unfit(kernel, target.platform):
            yield _drivers(appliance, kernel, facts, target)
    for step in load_steps():
        if step.detect(facts, target):
            yield from step.check(appliance, facts, target)


def _drivers(appliance: Appliance, kernel: Kernel, facts: GuestFacts, target: Target) -> Check:
    """List a kernel's initramfs: every driver that the root file system needs must be in it."""
    needed = wanted(kernel, facts, target)
    built_in = [
        driver for driver in BOOT[target.platform] if kernel.state(driver) is DriverState.BUILT_IN
    ]
    name = f"drivers of kernel {kernel.version}"
    if not needed:
        return Check(name, True, f"all are built in: {', '.join(built_in)}")
    same = appliance.stamp(kernel.initramfs) == kernel.stamp
    found = kernel.in_initramfs if same else modules_in(appliance, kernel.initramfs)
    lacking = [driver for driver in needed if driver not in found]
    if lacking:
        return Check(name, False, f"{kernel.initramfs} lacks {', '.join(lacking)}")
    evidence = f"{kernel.initramfs} holds {', '.join(needed)}"
    if built_in:
        evidence += f"; built in: {', '.join(built_in)}"
    return Check(name, True, evidence)
