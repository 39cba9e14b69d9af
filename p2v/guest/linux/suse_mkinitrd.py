# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: SUSE's mkinitrd (SLES 11, before dracut) puts the VM's drivers into every initramfs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, RunProgram, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux import dracut
from p2v.guest.linux.rebuild import TIMEOUT_S, modules, reason
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem

CONFIGURATION = "/etc/sysconfig/kernel"
FILES: tuple[str, ...] = (CONFIGURATION,)
PATHS: tuple[str, ...] = ("/sbin/mkinitrd",)

_MODULES = re.compile(r'^INITRD_MODULES="([^"]*)"', re.MULTILINE)


def detect(facts: GuestFacts, target: Target) -> bool:
    """Return whether the guest makes its initramfs so."""
    file = linux(facts).file(CONFIGURATION)
    named = file is not None and _MODULES.search(file.text) is not None
    return named and linux(facts).has("/sbin/mkinitrd") and not dracut.detect(facts, target)


def plan(facts: GuestFacts, target: Target, planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield the configuration and the run that follows it."""
    file, why = linux(facts).file(CONFIGURATION), reason(facts, target, planned)
    match = _MODULES.search(file.text) if file is not None else None
    if file is None or match is None or not why:
        return
    words = match[1].split()
    words += [driver for driver in modules(facts, target) if driver not in words]
    text = file.text[: match.start(1)] + " ".join(words) + file.text[match.end(1) :]
    yield Edit(
        Area.DRIVERS,
        f"name the VM's drivers in {CONFIGURATION}",
        "mkinitrd takes those of the machine that it runs on",
        WriteFile(CONFIGURATION, text),
    )
    yield Edit(
        Area.DRIVERS,
        "make the initramfs of every kernel anew",
        why,
        RunProgram(("/sbin/mkinitrd",), TIMEOUT_S),
    )


def check(_appliance: Appliance, _facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Yield nothing: the drivers in each initramfs are checked for all tools alike."""
    return iter(())
