# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: initramfs-tools (Debian, Ubuntu) puts the VM's drivers into every initramfs.

Its policy stays the administrator's. `MODULES=dep` takes the drivers of the appliance's devices,
which do no harm, what the root file system lies on, and in any case the modules that are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, RunProgram, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux import rebuild
from p2v.guest.linux.cmdline import corrected, lost_devices
from p2v.guest.linux.facts import MAX_TEXT
from p2v.guest.linux.rebuild import TIMEOUT_S, modules, reason, room_problem
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem

MODULES = "/etc/initramfs-tools/modules"
RESUME = "/etc/initramfs-tools/conf.d/resume"
_TOOLS = ("/usr/sbin/update-initramfs", "/usr/sbin/mkinitramfs")
FILES: tuple[str, ...] = (MODULES, *rebuild.FILES)
PATHS: tuple[str, ...] = (*_TOOLS, *rebuild.PATHS)


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether the guest makes its initramfs so; a leftover of one of both parts does not."""
    return all(linux(facts).has(path) for path in _TOOLS)


def plan(facts: GuestFacts, target: Target, planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield the configuration and the run that follows it."""
    resume = linux(facts).file(RESUME)
    waits = resume is not None and bool(_lost(resume.text, facts))
    why = reason(facts, target, planned)
    if waits and resume is not None:
        yield Edit(
            Area.STORAGE,
            "do not look for a hibernated system on a swap that is not there",
            "every boot would wait for it",
            WriteFile(RESUME, _resume(resume.text, facts)),
            before=resume.text,
        )
        why = why or f"it holds a copy of {RESUME}"
    if not why:
        return
    if (problem := room_problem(facts)) is not None:
        yield problem
    file = linux(facts).file(MODULES)
    text = file.text if file is not None else ""
    present = text.split()
    if lacking := [driver for driver in modules(facts, target) if driver not in present]:
        yield Edit(
            Area.DRIVERS,
            f"name {', '.join(lacking)} in {MODULES}",
            "the guest needs them before its root file system is mounted",
            WriteFile(MODULES, text.rstrip("\n") + "\n" * bool(text) + "\n".join(lacking) + "\n"),
        )
    yield Edit(
        Area.DRIVERS,
        "make the initramfs of every kernel anew",
        why,
        RunProgram(("update-initramfs", "-u", "-k", "all"), TIMEOUT_S),
    )


def check(appliance: Appliance, facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Look up the swap that a boot would resume from."""
    if appliance.is_file(RESUME):
        text = appliance.read(RESUME, MAX_TEXT).decode("utf-8", "surrogateescape")
        lost = _lost(text, facts)
        evidence = ", ".join(lost) or text.strip()
        yield Check("no boot waits for a swap that is not there", not lost, evidence)


def _lost(text: str, facts: GuestFacts) -> list[str]:
    return lost_devices(text.replace("RESUME=", "resume="), facts)


def _resume(text: str, facts: GuestFacts) -> str:
    """Return the file with its swap by UUID, or with none where that is not there."""
    line = corrected(text.replace("RESUME=", "resume="), facts)
    return line.replace("noresume", "RESUME=none").replace("resume=", "RESUME=")
