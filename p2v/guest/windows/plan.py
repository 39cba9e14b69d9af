# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the edits of a Windows guest: a pure function of its facts and the target.

The one thing that it looks at besides is the converter's folder with drivers, `target.drivers`.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2v.guest.edit import Area, Edit, Edits, RecoverHive, Refusal
from p2v.guest.facts import GuestFacts
from p2v.guest.report import Detail
from p2v.guest.target import Platform, Target
from p2v.guest.windows import boot, firstboot, loader, network, services, storage, virtio
from p2v.guest.windows.facts import WindowsFacts
from p2v.guest.windows.refusals import refusal
from p2v.model.machine import ContentKind, Problem, Severity

_PRODUCTS = {"WinNT": "workstation", "ServerNT": "server", "LanmanNT": "domain controller"}


def plan(facts: GuestFacts, target: Target) -> Edits | Refusal:
    """Return what must change for the target, or why that can't be done."""
    windows = of(facts)
    is_kvm = target.platform is Platform.KVM
    drivers = virtio.find(target.drivers, facts.system, windows) if is_kvm else ()
    if reason := refusal(facts, windows, target, drivers):
        return reason
    found: list[Edit | Problem] = [
        *_recovered(windows),
        *boot.plan(windows, target),
        *virtio.plan(facts, windows, drivers),
        *storage.plan(facts, windows),
        *services.plan(windows),
        *network.plan(windows, target),
        *firstboot.plan(windows, network.carried(windows, target), drivers=bool(drivers)),
        *loader.plan(windows, facts.system.architecture),
        *_problems(facts, windows, target),
    ]
    return Edits(
        edits=tuple(one for one in found if isinstance(one, Edit)),
        problems=tuple(one for one in found if isinstance(one, Problem)),
    )


def details(facts: GuestFacts, _target: Target) -> Iterator[Detail]:
    """Yield what the report shows of the guest."""
    windows = of(facts)
    yield Detail("product", _PRODUCTS.get(windows.product, windows.product))
    yield Detail("edition", f"{windows.edition}, build {windows.build}")
    yield Detail("file system", windows.state)
    if windows.damage:
        yield Detail("registry", windows.damage)
        return
    pending = f"{windows.recovered} changes in its logs" if windows.recovered else "clean"
    yield Detail("registry", pending)
    yield Detail("control sets", ", ".join(one.name for one in windows.control_sets))
    current = windows.control_set()
    for name in (*boot.VMBUS, "intelide", "storahci"):
        if current and (service := current.service(name)):
            held = ", held back" if service.overridden else ""
            yield Detail(name, f"start {service.start}{held}")
    for filters in current.filters if current else ():
        yield Detail(f"{filters.device_class} {filters.value}", ", ".join(filters.names))
    for interface in windows.interfaces:
        yield Detail("network", network.described(interface))


def of(facts: GuestFacts) -> WindowsFacts:
    """Return what is known of the Windows."""
    if facts.windows is None:
        raise TypeError("these are the facts of another kind of system")
    return facts.windows


def _recovered(windows: WindowsFacts) -> Iterator[Edit]:
    if windows.recovered:
        yield Edit(
            area=Area.BOOT,
            what=f"apply {windows.recovered} changes that the registry's logs still hold",
            reason="Windows wrote them there when it last ran, and not yet into the registry",
            action=RecoverHive(windows.hive, windows.logs),
        )


def _problems(facts: GuestFacts, windows: WindowsFacts, target: Target) -> Iterator[Problem]:
    if target.platform is Platform.HYPERV and (lost := boot.missing(windows, boot.VMBUS)):
        yield Problem(
            severity=Severity.WARNING,
            code="no-vmbus-drivers",
            subject=", ".join(lost),
            message=f"Windows lacks drivers for Hyper-V: {', '.join(lost)}. The VM starts from "
            "its IDE disk, slowly, and sees no synthetic network adapter.",
            action="Give the VM a legacy network adapter, and install the integration services.",
        )
    if windows.product == "LanmanNT":
        yield Problem(
            severity=Severity.WARNING,
            code="domain-controller",
            subject=facts.system.hostname,
            message="This is a domain controller: the source must never run again once the VM "
            "has, or the domain is damaged (USN rollback).",
            action="Start the VM without a network first; keep the source switched off for good.",
        )
    if not windows.powershell:
        yield Problem(
            severity=Severity.WARNING,
            code="no-powershell",
            subject="",
            message="Windows PowerShell is not installed; what the first start does has to be "
            "done by hand.",
            action="See docs/windows.md, 'The first start'.",
        )
    for volume in facts.volumes:
        if volume.kind == ContentKind.BITLOCKER:
            yield Problem(
                severity=Severity.WARNING,
                code="bitlocker-data",
                subject=volume.device,
                message=f"{volume.device} is encrypted by BitLocker; the VM has another TPM and "
                "asks for its recovery key.",
                action="Keep the recovery key at hand, or switch BitLocker off on the source.",
            )
