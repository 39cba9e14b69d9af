# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: SELinux labels everything at the first boot: edited files have no labels of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem

CONFIGURATION = "/etc/selinux/config"
MARK = "/.autorelabel"
FILES: tuple[str, ...] = (CONFIGURATION,)
PATHS: tuple[str, ...] = (MARK,)

_ON = re.compile(r"^\s*SELINUX\s*=\s*(enforcing|permissive)\b", re.MULTILINE)


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether the guest uses SELinux."""
    file = linux(facts).file(CONFIGURATION)
    return file is not None and _ON.search(file.text) is not None


def plan(facts: GuestFacts, _target: Target, planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield the mark that asks for it, if anything is edited at all."""
    if planned and not linux(facts).has(MARK):
        yield Edit(
            Area.SECURITY,
            "label all files at the first boot",
            "new files have no SELinux labels; the first boot takes minutes longer, once",
            WriteFile(MARK, ""),
        )


def check(_appliance: Appliance, _facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Yield nothing: the mark is the guest's to take away."""
    return iter(())
