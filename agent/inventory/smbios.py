# SPDX-License-Identifier: GPL-3.0-or-later
"""Maker, product and serial number, and the memory that is plugged in, from SMBIOS."""

from __future__ import annotations

import re
from pathlib import Path

from agent import tools
from p2v.model.errors import ToolError
from p2v.model.machine import Smbios
from p2v.model.units import GiB, KiB, MiB, TiB

_FIELDS = {
    "vendor": "sys_vendor",
    "product": "product_name",
    "version": "product_version",
    "serial": "product_serial",
    "uuid": "product_uuid",
    "bios_vendor": "bios_vendor",
    "bios_version": "bios_version",
    "bios_date": "bios_date",
}
_NOTHING = {"", "none", "not specified", "default string", "to be filled by o.e.m.", "n/a"}
_MODULE = re.compile(r"^\s*Size: (\d+) ([kMGT]B)$", re.MULTILINE)
_UNITS = {"kB": KiB, "MB": MiB, "GB": GiB, "TB": TiB}


def read_smbios(sys: Path = Path("/sys")) -> Smbios:
    """Return what the kernel shows of SMBIOS; empty where the machine has none."""
    return Smbios(**{name: _text(sys / "class/dmi/id" / file) for name, file in _FIELDS.items()})


def _text(path: Path) -> str:
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    return "" if text.lower() in _NOTHING else text


def installed_memory(sys: Path = Path("/sys")) -> int | None:
    """Return the bytes of memory that are plugged in, None where dmidecode cannot tell."""
    if not (sys / "firmware/dmi/tables/DMI").exists():
        return None
    try:
        return parse_modules(tools.run(["dmidecode", "-q", "-t", "memory"]).decode())
    except ToolError:
        return None


def parse_modules(text: str) -> int | None:
    """Return the sum of the memory devices' sizes in dmidecode's `text`, None without any."""
    return sum(int(count) * _UNITS[unit] for count, unit in _MODULE.findall(text)) or None
