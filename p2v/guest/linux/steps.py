# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a conversion of a Linux guest, in the order in which their edits are applied.

How one is written: `p2v.guest.steps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Protocol, cast

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Edit
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.facts import LinuxFacts
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem

_MAKERS = ("initramfs_tools", "dracut", "mkinitcpio", "suse_mkinitrd")
"""Those that make an initramfs; a guest has one at most."""
STEPS = (
    "fstab",
    "crypttab",
    "volumes",
    "network",
    "services",
    "domain",
    "grub",
    "fallback_loader",
    *_MAKERS,
    "selinux",
)


class Step(Protocol):
    """A module of one concern."""

    FILES: tuple[str, ...]
    PATHS: tuple[str, ...]

    def detect(self, facts: GuestFacts, target: Target) -> bool:
        """Return whether the guest has that concern."""

    def plan(
        self, facts: GuestFacts, target: Target, planned: Sequence[Edit]
    ) -> Iterator[Edit | Problem]:
        """Yield what must change; `planned` are the edits of the steps before."""

    def check(self, appliance: Appliance, facts: GuestFacts, target: Target) -> Iterator[Check]:
        """Yield what was looked up in the edited guest."""


def load_steps() -> list[Step]:
    """Return all steps."""
    return [cast(Step, import_module(f"p2v.guest.linux.{name}")) for name in STEPS]


def maker(facts: GuestFacts, target: Target) -> str:
    """Return the step that makes the guest's initramfs, "" if there is none."""
    steps = dict(zip(STEPS, load_steps(), strict=True))
    return next((name for name in _MAKERS if steps[name].detect(facts, target)), "")


def linux(facts: GuestFacts) -> LinuxFacts:
    """Return the facts of a guest that is known to be Linux."""
    if facts.linux is None:
        raise TypeError("these are no facts of a Linux guest")
    return facts.linux
