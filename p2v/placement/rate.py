# SPDX-License-Identifier: GPL-3.0-or-later
"""Rate one host, and rank many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from p2v.model.errors import UsageError
from p2v.model.host import HostFacts
from p2v.model.plan import Plan
from p2v.model.rating import Goal, Rating, Reason, Weights, ZeroReason
from p2v.model.units import format_size
from p2v.placement.demand import full_space, settings
from p2v.placement.reasons import check_growth, place, reasons
from p2v.placement.terms import amounts, terms
from p2v.placement.whatif import Rate, improvements

LEAST = 0.5
"""A host that passes all checks is never shown like one that fails."""
_EPSILON = 1e-9
"""What sums of floats may lack of a half step that they reach exactly."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How to rate: the goal, the weights, and the part of the disks' free room to be kept."""

    goal: Goal = Goal.BALANCE
    weights: Weights = field(default_factory=Weights)
    growth: float = 0.2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host to rate and how fresh its facts are.

    `problem` says why it does not answer; it is not rated then, whatever was known of it before.
    """

    facts: HostFacts
    problem: str = ""
    age_s: float | None = None
    samples: int = 0


def rank(
    plan: Plan, candidates: Iterable[Candidate], policy: Policy | None = None
) -> tuple[Rating, ...]:
    """Return the ratings of all candidates, the best first; their order does not matter.

    Raises:
        UsageError: the plan asks for no virtual machine, or the policy makes no sense.
    """
    policy = policy or Policy()
    _check(policy)
    found = (_candidate(plan, each, policy) for each in candidates)
    return tuple(sorted(found, key=lambda each: (-each.stars, -each.score, each.group, each.host)))


def rate(plan: Plan, host: HostFacts, policy: Policy | None = None) -> Rating:
    """Return the rating of `host` for the plan's virtual machine.

    Raises:
        UsageError: the plan asks for no virtual machine, or the policy makes no sense.
    """
    return rank(plan, [Candidate(host)], policy)[0]


def _candidate(plan: Plan, candidate: Candidate, policy: Policy) -> Rating:
    host = candidate.facts
    if problem := candidate.problem or host.problem:
        settings(plan)
        text = f"the host does not answer: {problem}"
        return Rating(
            host=host.name,
            hypervisor=host.hypervisor,
            group=host.group,
            goal=policy.goal,
            stars=0.0,
            score=0.0,
            reasons=(ZeroReason(Reason.SILENT, text),),
            age_s=candidate.age_s,
            samples=candidate.samples,
        )
    bare = _rate(plan, host, policy)

    def again(plan: Plan, host: HostFacts) -> Rating:
        return _rate(plan, host, policy)

    rerate: Rate = again
    return replace(
        bare,
        improvements=tuple(improvements(plan, host, bare, rerate)),
        age_s=candidate.age_s,
        samples=candidate.samples,
    )


def _rate(plan: Plan, host: HostFacts, policy: Policy) -> Rating:
    """Rate without saying what would change the rating."""
    found = amounts(settings(plan), host)
    parts = terms(found, policy.goal, policy.weights)
    why = tuple(reasons(plan, host, found, policy.growth))
    score = math.fsum(each.stars for each in parts)
    where = place(plan, host)
    return Rating(
        host=host.name,
        hypervisor=host.hypervisor,
        group=host.group,
        goal=policy.goal,
        stars=0.0 if why else max(half_steps(score), LEAST),
        score=0.0 if why else score,
        storage=where.name if where else "",
        terms=parts,
        reasons=why,
        notes=tuple(_notes(plan, host)),
    )


def half_steps(score: float) -> float:
    """Return the score rounded down to a half step."""
    return math.floor(score * 2 + _EPSILON) / 2


def _notes(plan: Plan, host: HostFacts) -> Iterator[str]:
    vm = settings(plan)
    if vm.load is None:
        yield "the source's load was not measured: only its memory is counted"
    for nic in vm.nics:
        if not nic.network:
            yield f"{nic.name} is connected to no network"
    where = place(plan, host)
    grown = full_space(plan)
    if where is not None and where.free - host.reserve.disk < grown:
        yield (f"the disks may grow to {format_size(grown)}, which {where.name} has no room for")


def _check(policy: Policy) -> None:
    check_growth(policy.growth)
    weights = policy.weights
    parts = (weights.cpu, weights.memory, weights.disk, weights.network)
    if not all(math.isfinite(part) and part >= 0 for part in parts):
        raise UsageError(problem="a weight is a number, zero or more")
    if not weights.cpu + weights.memory:
        raise UsageError(problem="the weight of CPU or of memory must be more than zero")
