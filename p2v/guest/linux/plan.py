# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the edits of a Linux guest: the sum of its steps."""

from __future__ import annotations

from collections.abc import Iterator

from p2v.guest.edit import Edit, Edits, Refusal
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.drivers import DISPLAY, unfit
from p2v.guest.linux.facts import DriverState, Kernel
from p2v.guest.linux.interfaces import interfaces
from p2v.guest.linux.steps import linux, load_steps
from p2v.guest.report import Detail
from p2v.guest.target import Platform, Target
from p2v.model.machine import Problem, Severity

_NAMES = {Platform.HYPERV: "Hyper-V", Platform.KVM: "KVM"}


def plan(facts: GuestFacts, target: Target) -> Edits | Refusal:
    """Return what must change for the target, or why that can't be done."""
    if refusal := _no_kernel(facts, target):
        return refusal
    edits: list[Edit] = []
    problems = list(_kernel_problems(facts, target))
    for step in load_steps():
        if not step.detect(facts, target):
            continue
        for outcome in step.plan(facts, target, edits):
            if isinstance(outcome, Problem):
                problems.append(outcome)
            else:
                edits.append(outcome)
    return Edits(tuple(edits), tuple(problems))


def details(facts: GuestFacts) -> Iterator[Detail]:
    """Yield what the report shows of the guest."""
    for kernel in linux(facts).kernels:
        here = [one.name for one in kernel.drivers if one.state is not DriverState.MISSING]
        yield Detail(
            f"kernel {kernel.version}",
            f"{kernel.image or 'no image'}; {kernel.initramfs or 'no initramfs'}; has "
            f"{', '.join(here) or 'no driver for a VM'}; in its initramfs: "
            f"{', '.join(kernel.in_initramfs) or 'none of them'}",
        )
    names = (
        f"{one.name} ({one.mac or 'MAC unknown'}, {one.style})" for one in interfaces(linux(facts))
    )
    yield Detail("network", ", ".join(names))
    yield Detail("configuration read", ", ".join(file.path for file in linux(facts).files))


def _no_kernel(facts: GuestFacts, target: Target) -> Refusal | None:
    """Refuse a guest none of whose kernels can run on the target."""
    kernels = [kernel for kernel in linux(facts).kernels if kernel.image]
    name = _NAMES[target.platform]
    if not kernels:
        return Refusal(
            "no-kernel",
            f"{facts.system.name} has no kernel in /boot that could be started",
            "Was its /boot partition left out? Capture it too, and give all disks of the guest.",
        )
    if all(unfit(kernel, target.platform) for kernel in kernels):
        lacking = "; ".join(_lack(kernel, target) for kernel in kernels)
        return Refusal(
            "unfit-kernel",
            f"no kernel of {facts.system.name} can run on {name}: {lacking}",
            "Install a kernel with these drivers on the source (a distribution's standard kernel "
            "has them), and capture it again.",
        )
    return None


def _kernel_problems(facts: GuestFacts, target: Target) -> Iterator[Problem]:
    for kernel in linux(facts).kernels:
        if kernel.image and unfit(kernel, target.platform):
            yield Problem(
                Severity.WARNING,
                "unfit-kernel",
                kernel.version,
                f"This kernel can't run on {_NAMES[target.platform]}: {_lack(kernel, target)}",
                "Do not choose it in the boot menu, or remove it.",
            )
        elif kernel.image and not any(
            kernel.state(driver) is not DriverState.MISSING for driver in DISPLAY[target.platform]
        ):
            yield Problem(
                Severity.INFO,
                "no-display-driver",
                kernel.version,
                "It has no driver for the VM's display and shows text only.",
            )


def _lack(kernel: Kernel, target: Target) -> str:
    return f"{kernel.version} lacks {', '.join(unfit(kernel, target.platform))}"
