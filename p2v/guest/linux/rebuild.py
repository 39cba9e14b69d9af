# SPDX-License-Identifier: GPL-3.0-or-later
"""When an initramfs must be made anew; shared by the steps that make one."""

from __future__ import annotations

from collections.abc import Sequence

from p2v.guest.edit import Edit, RenameFile, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.drivers import BOOT, EARLY, not_in_initramfs, unfit
from p2v.guest.linux.facts import DriverState, Kernel
from p2v.guest.linux.steps import linux
from p2v.guest.target import Target
from p2v.model.machine import Problem, Severity
from p2v.model.units import MiB, format_size

_COPIED = ("/etc/crypttab", "/etc/lvm/", "/etc/mdadm", "/etc/systemd/network/")
"""Configuration of which an initramfs holds a copy; its /etc/fstab is an empty file, or none."""
_ROOM = 64 * MiB
TIMEOUT_S = 3600


def kernels(facts: GuestFacts, target: Target) -> list[Kernel]:
    """Return the kernels that have an initramfs and can run on the target."""
    return [
        kernel
        for kernel in linux(facts).kernels
        if kernel.initramfs and not unfit(kernel, target.platform)
    ]


def reason(facts: GuestFacts, target: Target, planned: Sequence[Edit]) -> str:
    """Return why the initramfs must be made anew, "" if they are right as they are."""
    lacking = [
        f"that of {kernel.version} lacks {', '.join(missing)}"
        for kernel in kernels(facts, target)
        if (missing := not_in_initramfs(kernel, target.platform))
    ]
    if lacking:
        return "; ".join(lacking)
    paths = (
        edit.action.path for edit in planned if isinstance(edit.action, WriteFile | RenameFile)
    )
    copied = sorted({path for path in paths if path.startswith(_COPIED)})
    return f"it holds copies of {', '.join(copied)}" if copied else ""


def modules(facts: GuestFacts, target: Target) -> list[str]:
    """Return the drivers to name: those that any of the kernels has as a module."""
    wanted = (*BOOT[target.platform], *EARLY[target.platform])
    return [
        driver
        for driver in wanted
        if any(one.state(driver) is DriverState.MODULE for one in kernels(facts, target))
    ]


def room_problem(facts: GuestFacts) -> Problem | None:
    """Return a warning where /boot may be too small for another initramfs."""
    boot = facts.mounted("/boot")
    if boot is None or not 0 <= boot.free < _ROOM:
        return None
    return Problem(
        Severity.WARNING,
        "little-room",
        boot.mount_point,
        f"Only {format_size(boot.free)} are free where the initramfs are made.",
        "If that fails, remove old kernels on the source and capture it again.",
    )
