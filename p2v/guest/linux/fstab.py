# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: /etc/fstab names its volumes by UUID, and those that were left out do no harm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.devices import find_volume, is_fragile, stable_name
from p2v.guest.linux.facts import MAX_TEXT
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem, Severity

FSTAB = "/etc/fstab"
FILES: tuple[str, ...] = (FSTAB,)
PATHS: tuple[str, ...] = ()

_LINE = re.compile(r"^([ \t]*)([^\s#]\S*)([ \t]+)(\S+)([ \t]+)(\S+)(?:([ \t]+)(\S+)(.*))?$")
_NOT_LOCAL = ("tmpfs", "proc", "sysfs", "devpts", "nfs", "nfs4", "cifs", "none", "overlay", "bind")
_VITAL = ("/usr", "/var", "/boot", "/boot/efi")
_HARMLESS = ("nofail", "x-systemd.device-timeout=1s")


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether there is an fstab."""
    return linux(facts).file(FSTAB) is not None


def plan(facts: GuestFacts, _target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield one edit of the file, if any line needs one, and what was left out."""
    file = linux(facts).file(FSTAB)
    if file is None:
        return
    if file.cut:
        yield Problem(
            Severity.WARNING,
            "file-too-long",
            FSTAB,
            f"It is longer than {MAX_TEXT} bytes and is left as it is.",
            "Check its device names by hand before the VM starts.",
        )
        return
    lines, changes = [], []
    for line in file.text.split("\n"):
        new, change = _line(line, facts)
        lines.append(new)
        if change:
            changes.append(change)
            if (vital := _left_out(new, change)) is not None:
                yield vital
    if changes:
        yield Edit(
            Area.STORAGE,
            f"correct {len(changes)} lines of {FSTAB}",
            "; ".join(changes[:8]),
            WriteFile(FSTAB, "\n".join(lines)),
        )


def check(appliance: Appliance, facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Look up every local volume of the edited file."""
    text = appliance.read(FSTAB, MAX_TEXT).decode("utf-8", "surrogateescape")
    lost = []
    for match in filter(None, map(_LINE.match, text.split("\n"))):
        options = (match[8] or "").split(",")
        if _is_local(match[2], match[6]) and not {"nofail", "noauto"} & set(options):
            volume = find_volume(match[2], facts, match[4])
            if volume is None or is_fragile(match[2]):
                lost.append(match[2])
    name = f"{FSTAB} mounts what exists"
    yield Check(name, not lost, ", ".join(lost) or "every device is there, by a lasting name")


def _line(line: str, facts: GuestFacts) -> tuple[str, str]:
    """Return the line as it must be, and what was changed in words, "" for nothing."""
    match = _LINE.match(line)
    if match is None or not _is_local(match[2], match[6]):
        return line, ""
    name, place = match[2], match[4]
    if set(_HARMLESS) <= set((match[8] or "").split(",")):
        return line, ""  # by an earlier conversion, which knew more of what the names meant
    volume = find_volume(name, facts, place)
    if volume is None:
        return _harmless(match), f"{name} ({place}) is not among the VM's volumes"
    better = stable_name(volume)
    if is_fragile(name) and better:
        new = line[: match.start(2)] + better + line[match.end(2) :]
        return new, f"{name} ({place}) may have another name in the VM"
    return line, ""


def _harmless(match: re.Match[str]) -> str:
    """Return the line so that a boot does not wait for, or fail without, its volume."""
    options = [one for one in (match[8] or "defaults").split(",") if one]
    options += [one for one in _HARMLESS if one not in options]
    rest = re.sub(r"^(\s+\d+\s+)\d+", r"\g<1>0", match[9] or "")  # never checked by fsck
    parts = (*match.groups("")[:6], match[7] or " ", ",".join(options), rest)
    return "".join(parts)


def _left_out(line: str, change: str) -> Problem | None:
    """Return what to know of a volume that is not there, if its system needs it."""
    match = _LINE.match(line)
    if match is None or "nofail" not in (match[8] or "") or match[4] not in _VITAL:
        return None
    return Problem(
        Severity.WARNING,
        "volume-left-out",
        match[4],
        f"{change}; the guest is unlikely to work without it.",
        "Capture that partition too, or give its disk as a further image.",
    )


def _is_local(name: str, kind: str) -> bool:
    """Return whether an entry is about a disk of this machine."""
    return kind not in _NOT_LOCAL and (name.startswith("/dev/") or _is_tag(name))


def _is_tag(name: str) -> bool:
    return name.startswith(("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="))
