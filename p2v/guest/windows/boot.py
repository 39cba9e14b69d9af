# SPDX-License-Identifier: GPL-3.0-or-later
"""What Windows needs to reach its disk on other hardware: drivers that start with the kernel.

Without it Windows stops with 0x7B (INACCESSIBLE_BOOT_DEVICE). Windows 8 and later hold back the
drivers of hardware that they did not see, with `StartOverride`; Windows 7 has them start on demand.
Every control set is changed: which one starts is decided at every start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from p2v.guest.edit import Area, CopyFile, DeleteKey, Edit
from p2v.guest.target import Platform, Target
from p2v.guest.windows.facts import ControlSet, Service, WindowsFacts
from p2v.guest.windows.values import set_number, set_text

VMBUS = ("vmbus", "storvsc", "storflt")
"""Hyper-V's bus, the disks on it, and the filter that hands IDE disks over to it."""
_IDE = ("intelide", "pciide", "atapi")
_SATA = ("storahci", "msahci")
_START_BOOT = 0

_SYSTEM_CLASS = "{4D36E97D-E325-11CE-BFC1-08002BE10318}"
_SCSI_CLASS = "{4D36E97B-E325-11CE-BFC1-08002BE10318}"
_HDC_CLASS = "{4D36E96A-E325-11CE-BFC1-08002BE10318}"


class _Critical(NamedTuple):
    """An entry of the CriticalDeviceDatabase, as installed systems of Windows 7 have it."""

    device: str
    service: str
    device_class: str


_CRITICAL = (
    _Critical("ACPI#VMBus", "vmbus", _SYSTEM_CLASS),
    _Critical("VMBUS#{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}", "storvsc", _SCSI_CLASS),
    _Critical("PCI#VEN_8086&DEV_7111", "intelide", _HDC_CLASS),
    _Critical("Primary_IDE_Channel", "atapi", _HDC_CLASS),
    _Critical("Secondary_IDE_Channel", "atapi", _HDC_CLASS),
)


def needed(target: Target) -> tuple[str, ...]:
    """Return the drivers that start with the kernel in the target's VM, where Windows has them.

    A VM of KVM may have its disk on SATA or IDE too, for as long as its virtio drivers are new.
    """
    if target.platform is Platform.KVM:
        return (*_SATA, *_IDE)
    return (*VMBUS, *_IDE) if target.generation == 1 else VMBUS


def plan(windows: WindowsFacts, target: Target) -> Iterator[Edit]:
    """Yield the edits that have the target's drivers start."""
    names = startable(windows, target)
    yield from _files(windows, names)
    for control_set in windows.control_sets:
        for name in names:
            service = control_set.service(name)
            if service:
                yield from _started(windows.hive, control_set, service)
        if not windows.driver_database:
            yield from _found(windows.hive, control_set, names)


def startable(windows: WindowsFacts, target: Target) -> tuple[str, ...]:
    """Return the needed drivers that the system has; one without its file would stop the start."""
    lost = missing(windows, needed(target))
    return tuple(name for name in needed(target) if name not in lost)


def missing(windows: WindowsFacts, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the drivers that the system lacks: their service, or their file."""
    control_set = windows.control_set()
    found = []
    for name in names:
        service = control_set.service(name) if control_set else None
        if service is None or not (service.file in windows.drivers or _stored(windows, service)):
            found.append(name)
    return tuple(found)


def _started(hive: str, control_set: ControlSet, service: Service) -> Iterator[Edit]:
    key = rf"{control_set.name}\Services\{service.name}"
    if service.start != _START_BOOT:
        yield Edit(
            area=Area.DRIVERS,
            what=f"start {service.name} with the kernel ({control_set.name})",
            reason="the VM's disk is reached through this driver",
            action=set_number(hive, key, "Start", _START_BOOT),
            before=f"Start {service.start}",
        )
    if service.overridden:
        yield Edit(
            area=Area.DRIVERS,
            what=f"let {service.name} start as it says ({control_set.name})",
            reason="Windows holds it back, since its hardware was not there",
            action=DeleteKey(hive, rf"{key}\StartOverride"),
            before="StartOverride",
        )


def _found(hive: str, control_set: ControlSet, names: tuple[str, ...]) -> Iterator[Edit]:
    """Yield what has Windows 7 know the devices before its driver store can be searched."""
    for device, service, device_class in _CRITICAL:
        if service not in names or device.lower() in control_set.critical:
            continue
        key = rf"{control_set.name}\Control\CriticalDeviceDatabase\{device}"
        for name, text in (("Service", service), ("ClassGUID", device_class)):
            yield Edit(
                area=Area.DRIVERS,
                what=f"have {device} use {service} ({control_set.name})",
                reason="Windows 7 looks a boot device's driver up here",
                action=set_text(hive, key, name, text),
            )


def _files(windows: WindowsFacts, names: tuple[str, ...]) -> Iterator[Edit]:
    """Yield copies of driver files out of the driver store."""
    control_set = windows.control_set()
    for name in names:
        service = control_set.service(name) if control_set else None
        if service is None or service.file in windows.drivers:
            continue
        if stored := _stored(windows, service):
            yield Edit(
                area=Area.DRIVERS,
                what=f"install {service.file} from the driver store",
                reason="the driver starts with the kernel, and its file must be in place",
                action=CopyFile(stored, f"{windows.system_root}/System32/drivers/{service.file}"),
            )


def _stored(windows: WindowsFacts, service: Service) -> str:
    """Return the newest copy of a driver's file in the driver store, "" if there is none."""
    copies = [path for path in windows.packages if path.lower().endswith(f"/{service.file}")]
    return max(copies, default="")
