# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel command lines: the root and swap they name, and the console they use."""

from __future__ import annotations

import re

from p2v.guest.facts import GuestFacts, Volume
from p2v.guest.linux.devices import find_volume, is_fragile, stable_name

_DEVICE = re.compile(r"(?<![^\s\"'=])(root|resume)=(/dev/\S+?|UUID=\S+?)(?=[\s\"'\\]|$)")
_CONSOLE = re.compile(r"(?<![^\s\"'=])console=(\S+?)(?=[\s\"'\\]|$)")


def corrected(line: str, facts: GuestFacts) -> str:
    """Return a line that holds kernel parameters, as it must be in the VM.

    The root is named by UUID; a swap that is not there is not waited for; where all kernel messages
    go to serial lines, the screen gets them too.
    """
    line = _DEVICE.sub(lambda match: _named(match, facts), line)
    consoles = _CONSOLE.findall(line)
    if consoles and not any(one.startswith("tty") and one[3:].isdigit() for one in consoles):
        line = _CONSOLE.sub(lambda match: f"console=tty0 {match[0]}", line, count=1)
    return line


def lost_devices(line: str, facts: GuestFacts) -> list[str]:
    """Return the devices that a line names and that the VM will not have."""
    return [
        match[2]
        for match in _DEVICE.finditer(line)
        if is_fragile(match[2]) or _volume(match, facts) is None
    ]


def _named(match: re.Match[str], facts: GuestFacts) -> str:
    key, name = match[1], match[2]
    volume = _volume(match, facts)
    if volume is None:
        return "noresume" if key == "resume" else match[0]
    if is_fragile(name) and (better := stable_name(volume)):
        return f"{key}={better}"
    return match[0]


def _volume(match: re.Match[str], facts: GuestFacts) -> Volume | None:
    return find_volume(match[2], facts, "/" if match[1] == "root" else "")
