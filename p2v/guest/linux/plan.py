# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the edits of a Linux guest: the sum of its steps, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator

from p2v.guest.edit import Edit, Edits, Refusal
from p2v.guest.facts import GuestFacts
from p2v.guest.linux import grub, selinux, services
from p2v.guest.linux.drivers import DISPLAY, unfit
from p2v.guest.linux.facts import DriverState, Kernel
from p2v.guest.linux.interfaces import interfaces
from p2v.guest.linux.rebuild import reason
from p2v.guest.linux.steps import linux, load_steps, maker
from p2v.guest.report import Detail
from p2v.guest.target import Platform, Target
from p2v.model.machine import Problem, Severity

_SUSPENDED = ("swsuspend", "swsupend")  # the second is libblkid's spelling before 2.25
_NAMES = {Platform.HYPERV: "Hyper-V", Platform.KVM: "KVM"}


def plan(facts: GuestFacts, target: Target) -> Edits | Refusal:
    """Return what must change for the target, or why that can't be done."""
    if refusal := _hibernated(facts) or _no_kernel(facts, target):
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
    if not maker(facts, target) and (why := reason(facts, target, edits)):
        return _no_maker(facts, why)
    return Edits(tuple(edits), tuple(problems))


def details(facts: GuestFacts, target: Target) -> Iterator[Detail]:
    """Yield what the report shows of the guest."""
    for kernel in linux(facts).kernels:
        here = [one.name for one in kernel.drivers if one.state is not DriverState.MISSING]
        yield Detail(
            f"kernel {kernel.version}",
            f"{kernel.image or 'no image'}; {kernel.initramfs or 'no initramfs'}; has "
            f"{', '.join(here) or 'no driver for a VM'}; in its initramfs: "
            f"{', '.join(kernel.in_initramfs) or 'none of them'}",
        )
    yield Detail("initramfs by", maker(facts, target).replace("_", "-") or "no tool that is known")
    yield Detail("boot loader", ", ".join(grub.loaders(facts)) or "none that is known")
    names = (
        f"{one.name} ({one.mac or 'MAC unknown'}, {one.style})" for one in interfaces(linux(facts))
    )
    yield Detail("network", ", ".join(names))
    yield Detail("SELinux", "on" if selinux.detect(facts, target) else "off")
    yield Detail("tools of hypervisors", ", ".join(services.tools(facts)) or "none is started")
    yield Detail("configuration read", ", ".join(file.path for file in linux(facts).files))


def _hibernated(facts: GuestFacts) -> Refusal | None:
    """Refuse a guest that would wake up: its memory knows neither the VM nor the edits."""
    swap = next((one for one in facts.volumes if one.kind in _SUSPENDED), None)
    if swap is None:
        return None
    return Refusal(
        "hibernated",
        f"{facts.system.name} is hibernated: {swap.device} holds its memory, which would be woken "
        "up on other hardware, over edited file systems",
        "Start the source, shut it down, and capture it again. If its memory may be lost: "
        f"'mkswap -U {swap.uuid or 'UUID'}' on that swap, from a rescue system.",
    )


def _no_maker(facts: GuestFacts, why: str) -> Refusal:
    return Refusal(
        "no-initramfs-tool",
        f"an initramfs of {facts.system.name} must be made anew ({why}), and nothing that makes "
        "one was found: not initramfs-tools, dracut, mkinitcpio or SUSE's mkinitrd",
        "Make it on the source, with the drivers named above, and capture it again.",
    )


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
            first = kernel.version == linux(facts).default_kernel
            yield Problem(
                Severity.ERROR if first else Severity.WARNING,
                "unfit-kernel",
                kernel.version,
                f"This kernel can't run on {_NAMES[target.platform]}: {_lack(kernel, target)}."
                + (" It is the one that the boot menu starts by itself." if first else ""),
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
    lacking = unfit(kernel, target.platform)
    missing = [one for one in lacking if kernel.state(one) is DriverState.MISSING]
    if missing:
        return f"{kernel.version} lacks {', '.join(missing)}"
    return f"{kernel.version} has no initramfs, and {', '.join(lacking)} are modules"
