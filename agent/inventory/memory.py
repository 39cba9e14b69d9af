# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory, by /proc/meminfo."""

from __future__ import annotations

from pathlib import Path

from p2v.model.units import KiB


def meminfo(proc: Path = Path("/proc")) -> dict[str, int]:
    """Return the fields of /proc/meminfo in bytes.

    Raises:
        OSError: it cannot be read.
    """
    fields: dict[str, int] = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        fields[name] = int(number) * (KiB if unit == "kB" else 1)
    return fields


def used_memory(fields: dict[str, int]) -> int:
    """Return the bytes that applications and the kernel need: what is not available to others."""
    return fields["MemTotal"] - fields.get("MemAvailable", fields["MemFree"])
