# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan asks of a host."""

from __future__ import annotations

from p2v.model.errors import UsageError
from p2v.model.plan import Plan
from p2v.model.vm import VmSettings


def settings(plan: Plan) -> VmSettings:
    """Return the plan's virtual machine.

    Raises:
        UsageError: the plan makes images only.
    """
    if plan.vm is None:
        raise UsageError(
            problem=f"the plan '{plan.name}' has no [vm] section, so there is nothing to place"
        )
    return plan.vm


def disk_space(plan: Plan, growth: float) -> int:
    """Return the bytes that the plan's disks need: what is used, and `growth` (0 to 1) of the rest.

    A disk whose use is not known counts in full.
    """
    total = 0
    for disk in plan.disks:
        used = min(disk.used or disk.size, disk.size)
        total += used + int((disk.size - used) * growth)
    return total


def full_space(plan: Plan) -> int:
    """Return the bytes that the plan's disks take when they have grown to their size."""
    return sum(disk.size for disk in plan.disks)
