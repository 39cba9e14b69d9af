# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host could take the virtual machine of a plan, asked of the converter beforehand."""

from __future__ import annotations

from agent.stream.converter import Converter
from agent.stream.remote import RemoteConverter
from p2v.model.command import printable
from p2v.model.plan import Plan


def doubts_of_hosts(converter: Converter, plan: Plan) -> list[str]:
    """Return a sentence if no machine could be made as things are, and each host's reasons.

    It is no reason to stop: a host may have room by the time.
    """
    if plan.vm is None or not plan.vm.create or not isinstance(converter, RemoteConverter):
        return []
    named = plan.vm.host
    ratings = [each for each in converter.placement(plan) if named in ("", each["host"])]
    if any(each["stars"] for each in ratings):
        return []
    which = f"'{named}' can't" if named else "no host can"
    found = [f"{printable(which)} take the machine as things are"]
    if not ratings:
        return [*found, "the converter does not know it; 'p2v hosts list' there"]
    for each in ratings:
        reasons = "; ".join(reason["text"] for reason in each["reasons"])
        found.append(f"{printable(each['host'])}: {printable(reasons)}")
    return found
