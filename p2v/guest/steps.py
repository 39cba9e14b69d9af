# SPDX-License-Identifier: GPL-3.0-or-later
"""Families and steps: how the knowledge of one kind of guest is written, and loaded when needed.

A *family* is a package beside this module, `linux` or `windows`, with three modules:

    inspect.py   inspect(appliance, system) -> the family's facts
    plan.py      plan(facts, target) -> Edits | Refusal; pure
                 details(facts, target) -> the Details that the report shows
    check.py     check(appliance, facts, target) -> Checks, made after the edits were applied

In `linux`, plan and check are the sums of *steps*: modules of one concern ("the initramfs is made
by dracut"), named in `p2v.guest.linux.steps.STEPS` in the order in which their edits are applied.
A step is a module with

    FILES: tuple[str, ...]    shell patterns of configuration files that it reads
    PATHS: tuple[str, ...]    paths whose existence it asks for
    detect(facts, target) -> bool          whether the guest has that concern
    plan(facts, target, planned) -> Iterator[Edit | Problem]    after the edits `planned` so far
    check(appliance, facts, target) -> Iterator[Check]

Inspection collects `FILES` and `PATHS` of all steps beforehand, so that `detect` and `plan` are
pure functions, and tests call them with made-up facts. `check` reads the edited guest and never
repairs it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from p2v.guest.edit import Edits, Refusal
from p2v.guest.facts import Family, GuestFacts
from p2v.guest.linux.facts import LinuxFacts
from p2v.guest.report import Check, Detail
from p2v.guest.target import Target
from p2v.guest.windows.facts import WindowsFacts

if TYPE_CHECKING:
    from p2v.guest.appliance import Appliance


class Inspector(Protocol):
    """A family's `inspect` module."""

    def inspect(self, appliance: Appliance, found: GuestFacts) -> LinuxFacts | WindowsFacts:
        """Return the family's facts; the guest's file systems are mounted read-only.

        `found` holds the common facts, and neither `linux` nor `windows`.
        """


class Planner(Protocol):
    """A family's `plan` module."""

    def plan(self, facts: GuestFacts, target: Target) -> Edits | Refusal:
        """Return what must change for the target, or why that can't be done."""

    def details(self, facts: GuestFacts, target: Target) -> Iterable[Detail]:
        """Yield what the report shows of the guest."""


class Checker(Protocol):
    """A family's `check` module."""

    def check(self, appliance: Appliance, facts: GuestFacts, target: Target) -> Iterable[Check]:
        """Yield what was looked up in the edited guest; `facts` are those from before."""


def inspector(family: Family) -> Inspector:
    """Load what inspects guests of a family."""
    return cast(Inspector, import_module(f"p2v.guest.{family}.inspect"))


def planner(family: Family) -> Planner:
    """Load what plans the edits of guests of a family."""
    return cast(Planner, import_module(f"p2v.guest.{family}.plan"))


def checker(family: Family) -> Checker:
    """Load what checks guests of a family."""
    return cast(Checker, import_module(f"p2v.guest.{family}.check"))
