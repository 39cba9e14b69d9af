# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the inventory together."""

from __future__ import annotations

import os
from collections.abc import Sequence

from agent.appliance.hardware import check_hardware
from agent.appliance.image import is_live_image
from agent.inventory.cpu import read_cpus
from agent.inventory.disks import Device, find_device, inspect_disk, list_devices
from agent.inventory.firmware import read_firmware
from agent.inventory.kernels import check_kernels
from agent.inventory.load import measure_load
from agent.inventory.memory import meminfo
from agent.inventory.nics import read_nics, read_routes
from agent.inventory.problems import Problems
from agent.inventory.smbios import installed_memory, read_smbios
from agent.inventory.system import read_os
from p2v.model.machine import Cpus, Disk, Load, Machine, Memory, Nic, Route, Severity


def collect(names: Sequence[str] = (), load_window_s: float = 0) -> Machine:
    """Return this machine, with the disks `names` (all physical ones by default).

    The load is measured for `load_window_s` seconds, not at all with 0. Nothing is written. What
    cannot be read is among the machine's problems.

    Raises:
        NoSuchDiskError: one of `names` is no disk or image file.
        DiskUnreadableError: one of `names` is a file that cannot be opened.
    """
    problems = Problems()
    _check_privilege(problems)
    if is_live_image():
        _check_hardware(problems)
    else:
        problems.extend(check_kernels())
    disks = _disks(names, problems)
    nics = _nics(problems)
    return Machine(
        name=os.uname().nodename,
        firmware=read_firmware(),
        smbios=read_smbios(),
        cpus=_cpus(problems),
        memory=Memory(meminfo()["MemTotal"], installed_memory()),
        os=read_os(),
        disks=disks,
        nics=nics,
        routes=_routes(problems),
        load=_load(load_window_s, disks, nics, problems),
        problems=problems.all(),
    )


def _check_privilege(problems: Problems) -> None:
    if os.geteuid() != 0:
        problems.add(
            Severity.WARNING,
            "not-root",
            "",
            "Without root, disks, serial numbers and health cannot be read.",
            "Run p2v-agent as root.",
        )


def _check_hardware(problems: Problems) -> None:
    """On the live image a controller without a driver is a disk that nobody would miss."""
    found = check_hardware()
    for device in found.undriven:
        message = f"{device.bus.upper()} {device.id} {device.name}: {device.kind} without a driver."
        problems.add(Severity.WARNING, "no-driver", device.address, message, device.advice)
    for name in found.missing_firmware:
        problems.add(
            Severity.WARNING,
            "no-firmware",
            "",
            f"A driver asked for the firmware {name}, which is not here.",
            "Put it into the folder 'firmware' of a stick labelled P2VCONF, and start again.",
        )


def _disks(names: Sequence[str], problems: Problems) -> tuple[Disk, ...]:
    if names:
        devices = {device.path: device for device in map(find_device, names)}
        return tuple(inspect_disk(device, problems) for device in devices.values())
    found: tuple[Device, ...] = ()
    with problems.collect("disks-unreadable", ""):
        found = list_devices()
    return tuple(inspect_disk(device, problems) for device in found)


def _nics(problems: Problems) -> tuple[Nic, ...]:
    with problems.collect("network-unreadable", ""):
        return read_nics()
    return ()


def _routes(problems: Problems) -> tuple[Route, ...]:
    with problems.collect("routes-unreadable", ""):
        return read_routes()
    return ()


def _cpus(problems: Problems) -> Cpus:
    with problems.collect("cpus-unreadable", ""):
        return read_cpus()
    return Cpus()


def _load(
    window_s: float, disks: tuple[Disk, ...], nics: tuple[Nic, ...], problems: Problems
) -> Load | None:
    if window_s <= 0:
        return None
    with problems.collect("load-unreadable", ""):
        names = tuple(disk.name for disk in disks)
        return measure_load(window_s, names, tuple(nic.name for nic in nics))
    return None
