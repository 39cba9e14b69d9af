# SPDX-License-Identifier: GPL-3.0-or-later
"""The operating system of a root folder, by os-release(5), and the running kernel."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from p2v.model.machine import OperatingSystem

_PLACES = ("etc/os-release", "usr/lib/os-release")
_MAX = 64 << 10


def read_os(root: Path = Path("/")) -> OperatingSystem:
    """Return the operating system in `root`; the kernel too where that is the running one."""
    release = _release(root)
    running = root == Path("/")
    return OperatingSystem(
        id=release.get("ID", ""),
        version=release.get("VERSION_ID", ""),
        name=release.get("PRETTY_NAME", release.get("NAME", "")),
        kernel=os.uname().release if running else "",
        architecture=os.uname().machine if running else "",
    )


def _release(root: Path) -> dict[str, str]:
    for place in _PLACES:
        path = root / place
        try:
            if not path.resolve().is_relative_to(root.resolve()):
                continue  # a link out of a mounted root would describe the running system
            with path.open(errors="replace") as file:
                return parse_release(file.read(_MAX))
        except OSError:
            continue
    return {}


def parse_release(text: str) -> dict[str, str]:
    """Return the assignments in an os-release; lines that are none are passed over."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith("#"):
            continue
        try:
            values[name] = "".join(shlex.split(value))
        except ValueError:
            continue
    return values
