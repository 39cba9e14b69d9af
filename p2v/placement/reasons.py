# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a host gets no star: all reasons, each with its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from p2v.model.errors import UsageError
from p2v.model.host import HostFacts, HostStorage, HypervisorKind
from p2v.model.plan import ImageFormat, Plan
from p2v.model.rating import Reason, Resource, ZeroReason
from p2v.model.units import TiB, format_size
from p2v.model.vm import SecureBoot, VmSettings
from p2v.placement.demand import disk_space, settings
from p2v.placement.terms import Amount, quantity

_FORMAT_LIMIT = {ImageFormat.VHDX: 64 * TiB}
"""[MS-VHDX] 2.6.2.2: VirtualDiskSize is at most 64 TiB."""

_SHORT = {
    Resource.CPU: (Reason.CPU, "processor time"),
    Resource.MEMORY: (Reason.MEMORY, "memory"),
    Resource.DISK: (Reason.IOPS, "disk operations"),
    Resource.NETWORK: (Reason.BANDWIDTH, "network bandwidth"),
}


def reasons(
    plan: Plan, host: HostFacts, amounts: Sequence[Amount], growth: float
) -> Iterator[ZeroReason]:
    """Yield each reason why `host` can't take the plan's virtual machine."""
    vm = settings(plan)
    if host.maintenance:
        yield ZeroReason(Reason.MAINTENANCE, "the host is in maintenance mode")
    yield from _shortages(amounts)
    yield from _limits(vm, host)
    yield from _disks(plan, host)
    yield from _space(plan, host, growth)
    yield from _networks(vm, host)


def place(plan: Plan, host: HostFacts) -> HostStorage | None:
    """Return where the plan's disks go: the chosen storage, else the roomiest that is fit."""
    vm = settings(plan)
    fit = [
        each
        for each in host.storages
        if (not vm.storage or each.name == vm.storage) and (each.shared or not vm.clustered)
    ]
    return max(fit, key=lambda each: (each.free, each.name), default=None)


def _shortages(amounts: Sequence[Amount]) -> Iterator[ZeroReason]:
    for amount in amounts:
        if amount.missing:
            code, name = _SHORT[amount.resource]
            free = max(amount.usable - amount.used, 0.0)
            yield ZeroReason(
                code,
                f"not enough {name}: {quantity(amount.added, amount.unit)} needed, "
                f"{quantity(free, amount.unit)} free outside the reserve",
                amount.missing,
            )


def _limits(vm: VmSettings, host: HostFacts) -> Iterator[ZeroReason]:
    limits = host.limits
    if vm.cpus > (most := min(limits.cpus, host.cpus)):
        text = f"{vm.cpus} virtual processors wanted, at most {most} possible"
        yield ZeroReason(Reason.CPU_COUNT, text, vm.cpus - most)
    if vm.memory > limits.memory:
        text = (
            f"{format_size(vm.memory)} of memory wanted, a virtual machine may have "
            f"{format_size(limits.memory)}"
        )
        yield ZeroReason(Reason.MEMORY_LIMIT, text, vm.memory - limits.memory)
    if vm.firmware not in limits.firmware:
        yield ZeroReason(Reason.FIRMWARE, f"it can't start {vm.firmware.value.upper()} machines")
    if vm.secure_boot is not SecureBoot.OFF and not limits.secure_boot:
        yield ZeroReason(Reason.SECURE_BOOT, "it has no Secure Boot")
    if vm.architecture != limits.architecture:
        text = f"the guest is {vm.architecture}, the host runs {limits.architecture}"
        yield ZeroReason(Reason.ARCHITECTURE, text)
    if vm.clustered and not host.in_cluster:
        text = "the machine is to be highly available, the host is in no cluster"
        yield ZeroReason(Reason.NOT_CLUSTERED, text)


def _disks(plan: Plan, host: HostFacts) -> Iterator[ZeroReason]:
    if plan.format not in host.limits.formats:
        text = f"it takes no {plan.format} images"
        yield ZeroReason(Reason.FORMAT, text)
    elif plan.convert and plan.format not in fit_formats(host):
        made_for = "Hyper-V" if plan.format is ImageFormat.VHDX else "KVM, VMware and Xen"
        text = f"the guest in {plan.format} images is made ready for {made_for}, not for this host"
        yield ZeroReason(Reason.FORMAT, text)
    limit = min(host.limits.disk, _FORMAT_LIMIT.get(plan.format, host.limits.disk))
    for disk in plan.disks:
        if disk.size > limit:
            text = (
                f"disk {disk.name} has {format_size(disk.size)}, the limit of host and format is "
                f"{format_size(limit)}"
            )
            yield ZeroReason(Reason.DISK_SIZE, text, disk.size - limit)
        if disk.logical_sector not in host.limits.sectors:
            text = f"disk {disk.name} has sectors of {disk.logical_sector} bytes"
            yield ZeroReason(Reason.SECTOR, text)


def _space(plan: Plan, host: HostFacts, growth: float) -> Iterator[ZeroReason]:
    vm = settings(plan)
    if vm.storage and vm.storage not in {each.name for each in host.storages}:
        yield ZeroReason(Reason.STORAGE, f"it has no storage '{vm.storage}'")
        return
    needed = disk_space(plan, growth) + host.reserve.disk
    where = place(plan, host)
    if where is None:
        kind = "storage that its cluster shares" if vm.clustered else "storage"
        text = f"it has no {kind}; {format_size(needed)} are needed"
        yield ZeroReason(Reason.SPACE, text, needed)
    elif where.free < needed:
        text = (
            f"not enough disk space: {format_size(needed)} needed with growth and reserve, "
            f"{where.name} has {format_size(where.free)} free"
        )
        yield ZeroReason(Reason.SPACE, text, needed - where.free)


def _networks(vm: VmSettings, host: HostFacts) -> Iterator[ZeroReason]:
    known = {each.name: each for each in host.networks}
    for nic in vm.nics:
        if not nic.network:
            continue
        network = known.get(nic.network)
        if network is None:
            yield ZeroReason(Reason.NETWORK, f"it has no network '{nic.network}' for {nic.name}")
        elif nic.vlan and network.vlans and nic.vlan not in network.vlans:
            text = f"network '{nic.network}' does not carry VLAN {nic.vlan} for {nic.name}"
            yield ZeroReason(Reason.VLAN, text)


def fit_formats(host: HostFacts) -> tuple[ImageFormat, ...]:
    """Return the formats that the host takes whose guests are converted for its devices."""
    wanted = host.hypervisor is HypervisorKind.HYPERV
    return tuple(each for each in host.limits.formats if (each is ImageFormat.VHDX) is wanted)


def check_growth(growth: float) -> None:
    """Refuse a growth that is no part of a disk.

    Raises:
        UsageError: it is not within 0 to 1.
    """
    if not 0 <= growth <= 1:
        raise UsageError(problem=f"growth is {growth}; it is a part of the disks, 0 to 1")
