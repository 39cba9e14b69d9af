# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: LVM and md look at all disks, not at those of the source by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, RenameFile, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.facts import MAX_TEXT, TextFile
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem

LVM = ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf")
LVM_DEVICES = "/etc/lvm/devices/system.devices"
FILES: tuple[str, ...] = (*LVM, "/etc/mdadm.conf", "/etc/mdadm/mdadm.conf")
PATHS: tuple[str, ...] = (LVM_DEVICES,)

_FILTER = re.compile(
    r"""^(?P<indent>[ \t]*)(?P<filter>(?:global_)?filter[ \t]*=[ \t]*
    \[(?:[^\]"']|"(?:[^"\\]|\\.)*"|'[^']*')*\])[ \t]*$""",
    re.MULTILINE | re.VERBOSE,
)
_REFUSES_ALL = re.compile(r"""["']r(.)\.\*\1["']""")
_MD_DEVICE = re.compile(r"^([ \t]*DEVICE[ \t]+)(?!partitions)(/dev/\S.*)$", re.MULTILINE | re.I)
_MD_MEMBERS = re.compile(
    r"^([ \t]*ARRAY[ \t](?=.*\bUUID=).*?)[ \t]+devices=\S+", re.MULTILINE | re.I
)


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether the guest has configured LVM or md."""
    found = linux(facts)
    return found.has(LVM_DEVICES) or any(found.file(path) for path in FILES)


def plan(facts: GuestFacts, _target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield an edit of each file that names disks of the source."""
    found = linux(facts)
    for path in FILES:
        file = found.file(path)
        if file is not None and not file.cut and (text := _freed(file)) != file.text:
            yield Edit(
                Area.STORAGE,
                f"let {'LVM' if path in LVM else 'md'} look at all disks",
                f"{path} names disks of the source, and the VM's have other names",
                WriteFile(path, text),
            )
    if found.has(LVM_DEVICES):
        yield Edit(
            Area.STORAGE,
            "let LVM find its disks anew",
            f"{LVM_DEVICES} lists the source's disks by serial number; without it LVM takes all",
            RenameFile(LVM_DEVICES, f"{LVM_DEVICES}.before-p2v"),
        )


def check(appliance: Appliance, facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Read the edited files again."""
    for path in FILES:
        if linux(facts).file(path) is not None:
            text = appliance.read(path, MAX_TEXT).decode("utf-8", "surrogateescape")
            left = _freed(TextFile(path, text)) != text
            evidence = "it names disks of the source" if left else "it names no disk of the source"
            yield Check(f"{path} looks at all disks", not left, evidence)


def _freed(file: TextFile) -> str:
    """Return the file without restrictions to disks by name."""
    if file.path in LVM:
        return _FILTER.sub(_without_filter, file.text)
    return _MD_MEMBERS.sub(r"\1", _MD_DEVICE.sub(r"\1partitions", file.text))


def _without_filter(match: re.Match[str]) -> str:
    """Comment a filter out if it refuses all that it does not name; others may stay."""
    if _REFUSES_ALL.search(match["filter"]) is None:
        return match[0]
    lines = match[0].split("\n")
    first = lines[0].removeprefix(match["indent"])
    return "\n".join([f"{match['indent']}# before p2v: {first}", *(f"#{one}" for one in lines[1:])])
