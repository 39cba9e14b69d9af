# SPDX-License-Identifier: GPL-3.0-or-later
"""What a finished migration can show for itself: the guest's conversion, rehearsal and machine.

The documents are the converter's (docs/guest.md, docs/hosts.md); what they lack is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.credentials import find_credentials
from agent.stream.remote import Address, RemoteConverter
from p2v.model.errors import P2VError

_STARTED = ("login", "passphrase", "graphical-screen")
_LINES = 6
"""Of what a rehearsal saw last."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The report on the guest and what became of its machine; empty where there is none."""

    conversion: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def shortfall(self) -> str:
        """What was wanted and did not come to be, in capitals; "" if all did."""
        if self.machine.get("state") == "failed":
            return "NO MACHINE WAS MADE"
        if self.conversion.get("verdict") in ("refused", "failed"):
            return "THE GUEST IS NOT READY"
        seen = self.conversion.get("rehearsal")
        if isinstance(seen, dict) and seen.get("verdict") not in _STARTED:
            return "ITS REHEARSAL DID NOT END AT A LOGIN"
        return ""

    @property
    def complete(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.machine.get("state") not in ("wanted", "making")


def find_evidence(target: str, migration: str, images: Sequence[str]) -> Evidence:
    """Return what is known at `target`, a converter's address or a folder here."""
    if not target.startswith("https://"):
        return Evidence(_beside(images))
    try:
        address = Address.parse(target)
        with closing(RemoteConverter(address, find_credentials(address))) as converter:
            conversion = _or_nothing(lambda: converter.conversion(migration))
            return Evidence(conversion, _or_nothing(lambda: converter.machine(migration)))
    except P2VError:
        return Evidence()


def _or_nothing(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    with suppress(P2VError):
        return ask()
    return {}


def _beside(images: Sequence[str]) -> dict[str, Any]:
    """Return the report that 'p2v convert' leaves beside the first image."""
    with suppress(OSError, ValueError, IndexError):
        document = json.loads(Path(f"{images[0]}.conversion.json").read_bytes())
        return document if isinstance(document, dict) else {}
    return {}


def evidence_lines(found: Evidence) -> Iterator[str]:
    """Yield the evidence in words: the guest, its rehearsal, its machine."""
    yield from _guest(found.conversion)
    yield from _rehearsal(found.conversion)
    yield from _machine(found.machine)


def _guest(report: dict[str, Any]) -> Iterator[str]:
    if not report:
        yield "Guest: not converted ('p2v convert IMAGE' on the converter does it)."
        return
    edits, checks = _list(report, "edits"), _list(report, "checks")
    passed = sum(bool(check.get("passed")) for check in checks)
    yield f"Guest: {report.get('verdict', '?')}. {report.get('summary', '')}".rstrip()
    if checks:
        yield f"  {len(edits)} edits, {passed} of {len(checks)} checks passed"
    if hint := report.get("hint"):
        yield f"  What to do: {hint}"
    for problem in _list(report, "problems")[:_LINES]:
        yield f"  ! {problem.get('message', '')} {problem.get('action', '')}".rstrip()


def _rehearsal(report: dict[str, Any]) -> Iterator[str]:
    seen = report.get("rehearsal")
    if not isinstance(seen, dict):
        yield "Rehearsal: none yet ('p2v rehearse IMAGE' there shows whether it starts)."
        return
    yield f"Rehearsal: {seen.get('verdict', '?')}. {seen.get('text', '')}".rstrip()
    for line in (seen.get("evidence") or [])[-_LINES:]:
        yield f"  | {line}"
    for key in ("concerns", "limits"):
        for line in (seen.get(key) or [])[:_LINES]:
            yield f"  {line}"


def _machine(made: dict[str, Any]) -> Iterator[str]:
    if not made:
        return
    host = made.get("host") or "a host"
    match made.get("state"):
        case "made":
            yield f"Machine: made on {host} as {made.get('machine', '?')}."
        case "failed":
            yield f"Machine: NOT MADE on {host}. {made.get('problem', '')}"
            undone = ", ".join(map(str, made.get("undone") or [])) or "nothing was there"
            yield f"  Taken back: {undone}. The images are kept; 'p2v hosts deploy' tries again."
        case _:
            yield f"Machine: being made on {host} ..."


def _list(report: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = report.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
