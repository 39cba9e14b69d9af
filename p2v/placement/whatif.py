# SPDX-License-Identifier: GPL-3.0-or-later
"""What would change a rating: changes to host or plan are tried by rating again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from p2v.model.host import HostFacts, HostNetwork
from p2v.model.plan import Plan
from p2v.model.rating import Goal, Improvement, Rating, Reason, Resource, ZeroReason
from p2v.model.units import GiB, format_size
from p2v.model.vm import SecureBoot, VmNic
from p2v.placement.demand import settings
from p2v.placement.reasons import fit_formats, place
from p2v.placement.terms import STARS

Rate: TypeAlias = Callable[[Plan, HostFacts], Rating]
Changed: TypeAlias = tuple[str, Plan, HostFacts]

_DOUBLINGS = 10
_MEMORY_STEP = 8 * GiB
_CPU_STEP = 4


def improvements(plan: Plan, host: HostFacts, rating: Rating, rate: Rate) -> Iterator[Improvement]:
    """Yield what would give `host` more stars than `rating`, with the stars that it would get."""
    if rating.reasons:
        yield from _mended(plan, host, rating, rate)
    elif rating.goal is Goal.BALANCE and rating.stars < STARS:
        yield from _extended(plan, host, rating, rate)


# --- no stars: what takes the reasons away -------------------------------------------------------


def _mended(plan: Plan, host: HostFacts, rating: Rating, rate: Rate) -> Iterator[Improvement]:
    """Mend one reason after the other; say nothing if one can't be mended."""
    changes: list[str] = []
    for _ in range(len(Reason) + len(rating.reasons)):
        if not rating.reasons:
            *first, last = changes
            text = f"{', '.join(first)} and {last}" if first else last
            yield Improvement(text, rating.stars)
            return
        mend = _MENDS.get(rating.reasons[0].code)
        changed = mend(plan, host, rating.reasons[0]) if mend else None
        if changed is None:
            return
        text, plan, host = changed
        changes.append(text)
        rating = rate(plan, host)


def _more_memory(plan: Plan, host: HostFacts, reason: ZeroReason) -> Changed:
    more = math.ceil(reason.missing / GiB) * GiB
    return f"+{more // GiB} GiB memory", plan, replace(host, memory=host.memory + more)


def _more_cpus(plan: Plan, host: HostFacts, reason: ZeroReason) -> Changed | None:
    usable = 100 - host.reserve.cpu_percent
    load = settings(plan).load
    if usable <= 0:
        return None
    busy = host.load.cpu_percent * host.cpus / 100 + (load.busy_cores if load else 0.0)
    wanted = max(math.ceil(busy * 100 / usable), host.cpus + 1)
    return f"+{wanted - host.cpus} CPUs", plan, _with_cpus(host, wanted)


def _with_cpus(host: HostFacts, cpus: int) -> HostFacts:
    """Return the host with other processors and the same work to do."""
    percent = host.load.cpu_percent * host.cpus / cpus
    return replace(host, cpus=cpus, load=replace(host.load, cpu_percent=percent))


def _more_iops(plan: Plan, host: HostFacts, reason: ZeroReason) -> Changed:
    more = math.ceil(reason.missing)
    return f"+{more} disk operations/s", plan, replace(host, max_iops=host.max_iops + more)


def _more_bandwidth(plan: Plan, host: HostFacts, reason: ZeroReason) -> Changed | None:
    part = 1 - host.reserve.network_percent / 100
    if part <= 0:
        return None
    more = math.ceil(reason.missing / part)
    changed = replace(host, network_rate=host.network_rate + more)
    return f"+{format_size(more)}/s network", plan, changed


def _more_space(plan: Plan, host: HostFacts, reason: ZeroReason) -> Changed | None:
    where = place(plan, host)
    if where is None:
        return None
    more = math.ceil(reason.missing / GiB) * GiB
    storages = tuple(
        replace(each, free=each.free + more) if each == where else each for each in host.storages
    )
    return f"+{more // GiB} GiB free on {where.name}", plan, replace(host, storages=storages)


def _fewer_cpus(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed | None:
    most = min(host.limits.cpus, host.cpus)
    if not most:
        return None
    changed = replace(plan, vm=replace(settings(plan), cpus=most))
    return f"with {most} virtual processors", changed, host


def _less_memory(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed:
    changed = replace(plan, vm=replace(settings(plan), memory=host.limits.memory))
    return f"with {format_size(host.limits.memory)} of memory", changed, host


def _awake(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed:
    return "out of maintenance mode", plan, replace(host, maintenance=False)


def _other_format(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed | None:
    if not (fit := fit_formats(host)):
        return None
    wanted = fit[0]
    return f"with {wanted} images", replace(plan, format=wanted, compress_image=False), host


def _unsigned(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed:
    changed = replace(plan, vm=replace(settings(plan), secure_boot=SecureBoot.OFF))
    return "without Secure Boot", changed, host


def _alone(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed:
    changed = replace(plan, vm=replace(settings(plan), clustered=False))
    return "not highly available", changed, host


def _other_storage(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed:
    return "on another storage", replace(plan, vm=replace(settings(plan), storage="")), host


def _new_network(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed:
    known = {each.name for each in host.networks}
    name = next(n.network for n in settings(plan).nics if n.network and n.network not in known)
    changed = replace(host, networks=(*host.networks, HostNetwork(name)))
    return f"with a network '{name}'", plan, changed


def _new_vlan(plan: Plan, host: HostFacts, _reason: ZeroReason) -> Changed:
    nic = next(nic for nic in settings(plan).nics if _lacks(host, nic))
    networks = tuple(
        replace(each, vlans=(*each.vlans, nic.vlan)) if each.name == nic.network else each
        for each in host.networks
    )
    return f"with VLAN {nic.vlan} on '{nic.network}'", plan, replace(host, networks=networks)


def _lacks(host: HostFacts, nic: VmNic) -> bool:
    found = next((each for each in host.networks if each.name == nic.network), None)
    return bool(found and nic.vlan and found.vlans and nic.vlan not in found.vlans)


_MENDS: dict[Reason, Callable[[Plan, HostFacts, ZeroReason], Changed | None]] = {
    Reason.MAINTENANCE: _awake,
    Reason.CPU: _more_cpus,
    Reason.MEMORY: _more_memory,
    Reason.IOPS: _more_iops,
    Reason.BANDWIDTH: _more_bandwidth,
    Reason.SPACE: _more_space,
    Reason.CPU_COUNT: _fewer_cpus,
    Reason.MEMORY_LIMIT: _less_memory,
    Reason.FORMAT: _other_format,
    Reason.NETWORK: _new_network,
    Reason.VLAN: _new_vlan,
    Reason.SECURE_BOOT: _unsigned,
    Reason.STORAGE: _other_storage,
    Reason.NOT_CLUSTERED: _alone,
}
"""Reasons that are not here can't be mended at the host or in the plan's few words."""


# --- some stars: what gives more -----------------------------------------------------------------


def _extended(plan: Plan, host: HostFacts, rating: Rating, rate: Rate) -> Iterator[Improvement]:
    """Double each resource's extension until it shows in the stars."""
    for term in rating.terms:
        if term.value is None or not term.weight:
            continue
        for doubling in range(_DOUBLINGS):
            text, changed = _EXTENSIONS[term.resource](host, 1 << doubling)
            if (stars := rate(plan, changed).stars) > rating.stars:
                yield Improvement(text, stars)
                break


def _extend_memory(host: HostFacts, times: int) -> tuple[str, HostFacts]:
    more = _MEMORY_STEP * times
    return f"+{more // GiB} GiB memory", replace(host, memory=host.memory + more)


def _extend_cpus(host: HostFacts, times: int) -> tuple[str, HostFacts]:
    more = _CPU_STEP * times
    return f"+{more} CPUs", _with_cpus(host, host.cpus + more)


def _extend_iops(host: HostFacts, times: int) -> tuple[str, HostFacts]:
    more = host.max_iops * times / 4
    return f"+{more:.0f} disk operations/s", replace(host, max_iops=host.max_iops + more)


def _extend_network(host: HostFacts, times: int) -> tuple[str, HostFacts]:
    more = host.network_rate * times / 4
    changed = replace(host, network_rate=host.network_rate + more)
    return f"+{format_size(more)}/s network", changed


_EXTENSIONS: dict[Resource, Callable[[HostFacts, int], tuple[str, HostFacts]]] = {
    Resource.CPU: _extend_cpus,
    Resource.MEMORY: _extend_memory,
    Resource.DISK: _extend_iops,
    Resource.NETWORK: _extend_network,
}
