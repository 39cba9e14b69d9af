# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: mkinitcpio (Arch Linux) puts the VM's drivers into every initramfs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, RunProgram, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.rebuild import TIMEOUT_S, modules, reason
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem

CONFIGURATION = "/etc/mkinitcpio.conf"
FILES: tuple[str, ...] = (CONFIGURATION,)
PATHS: tuple[str, ...] = ("/usr/bin/mkinitcpio",)

_MODULES = re.compile(r"^MODULES=(?:\((?P<list>[^)]*)\)|\"(?P<text>[^\"]*)\")", re.MULTILINE)


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether the guest makes its initramfs so."""
    return linux(facts).has("/usr/bin/mkinitcpio") and linux(facts).file(CONFIGURATION) is not None


def plan(facts: GuestFacts, target: Target, planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield the configuration and the run that follows it."""
    file, why = linux(facts).file(CONFIGURATION), reason(facts, target, planned)
    if file is None or not why:
        return
    text = _with(file.text, modules(facts, target))
    if text != file.text:
        yield Edit(
            Area.DRIVERS,
            f"name the VM's drivers in {CONFIGURATION}",
            "the hook `autodetect` takes those of the machine that it runs on",
            WriteFile(CONFIGURATION, text),
        )
    yield Edit(
        Area.DRIVERS,
        "make the initramfs of every kernel anew",
        why,
        RunProgram(("mkinitcpio", "-P"), TIMEOUT_S),
    )


def check(_appliance: Appliance, _facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Yield nothing: the drivers in each initramfs are checked for all tools alike."""
    return iter(())


def _with(text: str, drivers: list[str]) -> str:
    """Return the configuration with the drivers in its MODULES."""
    match = _MODULES.search(text)
    if match is None:
        return f"{text.rstrip()}\nMODULES=({' '.join(drivers)})\n"
    present = (match["list"] or match["text"] or "").split()
    words = [*present, *(driver for driver in drivers if driver not in present)]
    return text[: match.start()] + f"MODULES=({' '.join(words)})" + text[match.end() :]
