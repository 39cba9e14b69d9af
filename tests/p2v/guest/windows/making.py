# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of Windows guests as tests need them: healthy ones by default, changed by keyword."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from p2v.guest.edit import Edits, Refusal
from p2v.guest.facts import Disk, Family, GuestFacts, System, Volume
from p2v.guest.target import NicAddress, Platform, Target
from p2v.guest.windows import hivefacts
from p2v.guest.windows.facts import ControlSet, Filters, Service, WindowsFacts
from p2v.guest.windows.plan import plan
from p2v.guest.windows.registry.hive import Hive
from p2v.model.machine import FirmwareKind
from tests.p2v.guest.windows import building

BOOT_DRIVERS = ("vmbus", "storvsc", "storflt", "intelide", "pciide", "atapi", "storahci", "disk")
_FILES = {"storflt": "vmstorfl"}


def service(name: str, start: int = 0, *, overridden: bool = False, image: str = "") -> Service:
    image = image or rf"System32\drivers\{_FILES.get(name, name)}.sys"
    return Service(name, start, overridden, image)


def control_set(*services: Service, **changes: Any) -> ControlSet:
    given = {one.name for one in services}
    others = tuple(service(name) for name in BOOT_DRIVERS if name not in given)
    filters = (Filters("{4d36e967}", "DiskDrive", "UpperFilters", ("partmgr",)),)
    settings = {"filters": filters, "san_policy": 1, "fast_startup": 0, "auto_reboot": 0}
    return ControlSet("ControlSet001", (*others, *services), **(settings | changes))


def windows(*sets: ControlSet, **changes: Any) -> WindowsFacts:
    sets = sets or (control_set(),)
    files = {one.file for each in sets for one in each.services}
    settings = {
        "product": "ServerNT",
        "build": 17763,
        "edition": "ServerStandard",
        "driver_database": True,
        "drivers": tuple(sorted(files)),
        "powershell": True,
    }
    return WindowsFacts("/Windows", control_sets=sets, **(settings | changes))


def facts(
    known: WindowsFacts | None = None,
    *,
    version: tuple[int, int] = (10, 0),
    architecture: str = "x86_64",
    firmware: FirmwareKind = FirmwareKind.BIOS,
    volumes: tuple[Volume, ...] = (),
) -> GuestFacts:
    system = System(
        Family.WINDOWS, "/dev/sda1", "Windows", "windows", *version, architecture, "srv"
    )
    return GuestFacts(
        system,
        firmware,
        (Disk("/dev/sda", 1 << 30, "msdos"),),
        volumes,
        windows=known or windows(),
    )


def facts_of(name: str, **changes: Any) -> GuestFacts:
    """Return the facts of a system whose SYSTEM hive is a real one, with all files in place."""
    read = hivefacts.read(Hive(building.real(name)))
    files = {one.file for each in read.control_sets for one in each.services if one.in_drivers}
    known = windows(
        *read.control_sets,
        current=read.current,
        product=read.product,
        driver_database=read.driver_database,
        interfaces=read.interfaces,
        drivers=tuple(sorted(files)),
    )
    seven = name == "SYSTEM"
    return facts(
        replace(known, **changes),
        version={"SYSTEM": (6, 1), "SYSTEM_2": (6, 3), "SYSTEM_B": (10, 0)}[name],
        architecture="i386" if seven else "x86_64",
    )


def target(
    platform: Platform = Platform.HYPERV,
    firmware: FirmwareKind = FirmwareKind.BIOS,
    macs: tuple[str, ...] = (),
    drivers: str = "",
) -> Target:
    nics = tuple(NicAddress(f"eno{number}", mac) for number, mac in enumerate(macs, 1))
    return Target(platform, firmware, nics, drivers)


def planned(found: GuestFacts, wanted: Target | None = None) -> Edits:
    edits = plan(found, wanted or target())
    assert isinstance(edits, Edits), edits
    return edits


def refused(found: GuestFacts, wanted: Target | None = None) -> Refusal:
    refusal = plan(found, wanted or target())
    assert isinstance(refusal, Refusal), refusal
    return refusal


def actions(edits: Edits) -> list[str]:
    return [str(edit.action) for edit in edits.edits]
