# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: /etc/crypttab names encrypted volumes by UUID."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.devices import CRYPTTAB, find_volume, is_fragile, stable_name
from p2v.guest.linux.facts import MAX_TEXT
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem, Severity

FILES: tuple[str, ...] = (CRYPTTAB,)
PATHS: tuple[str, ...] = ()

_LINE = re.compile(r"^(\s*[^\s#]\S*\s+)(\S+)((?:\s+\S+)?)((?:\s+\S+)?)(.*)$")
_BY_HARDWARE = re.compile(r"\b(?:tpm2-device|fido2-device|pkcs11-uri)=")


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether the guest opens encrypted volumes."""
    file = linux(facts).file(CRYPTTAB)
    return file is not None and not file.cut and bool(_entries(file.text))


def plan(facts: GuestFacts, _target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield one edit of the file if any line needs one."""
    file = linux(facts).file(CRYPTTAB)
    if file is None:
        return
    for match in _entries(file.text):
        if _BY_HARDWARE.search(match[4]):
            yield _by_hardware(match[1].strip())
    lines = [_line(line, facts) for line in file.text.split("\n")]
    changed = sum(old != new for old, new in zip(file.text.split("\n"), lines, strict=True))
    if changed:
        yield Edit(
            Area.STORAGE,
            f"correct {changed} lines of {CRYPTTAB}",
            "a disk may have another name in the VM, and what was left out must not be waited for",
            WriteFile(CRYPTTAB, "\n".join(lines)),
        )


def check(appliance: Appliance, facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Look up every volume of the edited file."""
    text = appliance.read(CRYPTTAB, MAX_TEXT).decode("utf-8", "surrogateescape")
    lost = [
        match[2]
        for match in _entries(text)
        if is_fragile(match[2]) or (_lost(match[2], facts) and "nofail" not in match[4])
    ]
    yield Check(f"{CRYPTTAB} opens what exists", not lost, ", ".join(lost) or "every volume exists")


def _by_hardware(name: str) -> Problem:
    return Problem(
        Severity.WARNING,
        "unlocked-by-hardware",
        name,
        f"{name} is unlocked by the source's TPM or a token, which the VM does not have.",
        "Have its passphrase or recovery key at hand when the VM starts.",
    )


def _entries(text: str) -> list[re.Match[str]]:
    return [match for match in map(_LINE.match, text.split("\n")) if match]


def _lost(name: str, facts: GuestFacts) -> bool:
    """Return whether the name is that of a disk's volume, and the volume is not there."""
    if not name.startswith(("/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=")):
        return False
    return not name.startswith(("/dev/urandom", "/dev/random")) and find_volume(name, facts) is None


def _line(line: str, facts: GuestFacts) -> str:
    match = _LINE.match(line)
    if match is None:
        return line
    if _lost(match[2], facts):
        key = match[3] or " none"
        options = match[4].strip()
        if "nofail" in options.split(","):
            return line
        return f"{match[1]}{match[2]}{key} {options + ',' if options else ''}nofail{match[5]}"
    volume = find_volume(match[2], facts)
    if volume is not None and is_fragile(match[2]) and stable_name(volume):
        return f"{match[1]}{stable_name(volume)}{match[3]}{match[4]}{match[5]}"
    return line
