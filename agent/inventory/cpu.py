# SPDX-License-Identifier: GPL-3.0-or-later
"""The processors, by lscpu."""

from __future__ import annotations

import json
from typing import Any

from agent import tools
from p2v.model.errors import ToolError
from p2v.model.machine import Cpus

# What decides where the virtual machine can run, and how fast its capture compresses.
_FLAGS = (
    *("lm", "nx", "pae", "vmx", "svm", "hypervisor", "aes", "sse4_2", "avx", "avx2", "avx512f"),
    *("sha_ni", "asimd", "crc32"),
)


def read_cpus() -> Cpus:
    """Return the processors of the running machine.

    Raises:
        ToolError: lscpu failed.
    """
    return parse_lscpu(tools.run(["lscpu", "--json"]))


def parse_lscpu(text: bytes) -> Cpus:
    """Return the processors in the output of ``lscpu --json``.

    Raises:
        ToolError: it is not such a document.
    """
    try:
        fields = dict(_flatten(json.loads(text)["lscpu"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ToolError(tool="lscpu", problem=f"its output makes no sense: {error}") from error
    flags = set(fields.get("Flags", "").split())
    return Cpus(
        model=fields.get("Model name", ""),
        architecture=fields.get("Architecture", ""),
        sockets=_count(fields.get("Socket(s)")),
        cores=_count(fields.get("Core(s) per socket") or fields.get("Core(s) per cluster")),
        threads=_count(fields.get("Thread(s) per core")),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
    )


def _flatten(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for entry in entries:
        pairs.append((str(entry["field"]).rstrip(":"), str(entry.get("data") or "")))
        pairs += _flatten(entry.get("children", []))
    return pairs


def _count(text: str | None) -> int:
    """Virtual machines and some ARM boards say "-"."""
    return int(text) if text is not None and text.isdigit() and int(text) else 1
