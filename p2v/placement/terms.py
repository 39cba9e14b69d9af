# SPDX-License-Identifier: GPL-3.0-or-later
"""The four terms of a rating: SCVMM's published ones, with the virtual machine's load added.

Source: MicrosoftDocs/SystemCenterDocs, vmm/provision-vms.md, "Formulas for placement". Microsoft
publishes each term as ``[1 - used / (capacity - reserve)] x weight`` and not how they are combined;
the combination, ``5 x sum(weight x term) / sum(weight)``, is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from p2v.model.host import HostFacts
from p2v.model.rating import Goal, Resource, Term, Weights
from p2v.model.units import format_size
from p2v.model.vm import VmSettings

STARS = 5.0


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of a resource a host has, keeps, uses, and would use more."""

    resource: Resource
    used: float
    added: float
    capacity: float
    reserve: float
    unit: str

    @property
    def known(self) -> bool:
        """Whether the capacity is known, and the term counts."""
        return self.capacity > 0

    @property
    def usable(self) -> float:
        """The capacity without the reserve."""
        return max(self.capacity - self.reserve, 0.0)

    @property
    def missing(self) -> float:
        """How much is lacking; 0 where it suffices."""
        return max(self.used + self.added - self.usable, 0.0) if self.known else 0.0

    @property
    def value(self) -> float | None:
        """The term before its weight, 0 to 1."""
        if not self.known:
            return None
        if not self.usable:
            return 0.0
        return min(max(1 - (self.used + self.added) / self.usable, 0.0), 1.0)


def amounts(vm: VmSettings, host: HostFacts) -> tuple[Amount, ...]:
    """Return the four resources of `host` with `vm` on it, in the order of `Resource`."""
    load, reserve = host.load, host.reserve
    busy = vm.load.busy_cores / host.cpus * 100 if vm.load and host.cpus else 0.0
    iops = vm.load.iops if vm.load else 0.0
    traffic = vm.load.network_bytes if vm.load else 0.0
    kept = host.network_rate * reserve.network_percent / 100
    percent = 100.0 if host.cpus else 0.0
    rows = (
        (Resource.CPU, load.cpu_percent, busy, percent, reserve.cpu_percent, "%"),
        (Resource.MEMORY, load.memory_used, vm.memory, host.memory, reserve.memory, "bytes"),
        (Resource.DISK, load.iops, iops, host.max_iops, reserve.iops, "operations/s"),
        (Resource.NETWORK, load.network_bytes, traffic, host.network_rate, kept, "bytes/s"),
    )
    return tuple(Amount(*row) for row in rows)


def terms(found: Sequence[Amount], goal: Goal, weights: Weights) -> tuple[Term, ...]:
    """Return the terms of the amounts; those of an unknown capacity have no weight."""
    parts = {each: getattr(weights, each.resource.value) if each.known else 0.0 for each in found}
    total = sum(parts.values())
    return tuple(_term(each, goal, part / total if total else 0.0) for each, part in parts.items())


def _term(amount: Amount, goal: Goal, weight: float) -> Term:
    value = amount.value
    wanted = 0.0 if value is None else value if goal is Goal.BALANCE else 1 - value
    term = Term(
        resource=amount.resource,
        used=amount.used,
        added=amount.added,
        capacity=amount.capacity,
        reserve=amount.reserve,
        unit=amount.unit,
        value=value,
        weight=weight,
        stars=STARS * weight * wanted,
        text="",
    )
    return replace(term, text=_words(term))


def _words(term: Term) -> str:
    if term.value is None:
        return f"{term.resource}: the host's capacity is not known; it does not count"
    return (
        f"{term.resource}: {quantity(term.used, term.unit)} used "
        f"+ {quantity(term.added, term.unit)} by this machine "
        f"of {quantity(term.capacity, term.unit)} less {quantity(term.reserve, term.unit)} reserve "
        f"leaves {term.value:.0%} free; weight {term.weight:.0%}: {term.stars:.2f} stars"
    )


def quantity(amount: float, unit: str) -> str:
    """Return an amount for people."""
    if unit == "%":
        return f"{amount:.1f} %"
    if unit == "bytes":
        return format_size(amount)
    if unit == "bytes/s":
        return f"{format_size(amount)}/s"
    return f"{amount:.0f} {unit}"
