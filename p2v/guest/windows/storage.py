# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks: filters that stand in the way, disks left offline, file systems left half written."""

from __future__ import annotations

from collections.abc import Iterator

from p2v.guest.edit import Area, Edit
from p2v.guest.facts import GuestFacts
from p2v.guest.windows.facts import ControlSet, Filters, WindowsFacts
from p2v.guest.windows.services import unwanted
from p2v.guest.windows.values import set_number, set_texts
from p2v.model.machine import Problem, Severity

_WINDOWS_OWN = ("ehstorclass", "ehstortcgdrv", "fvevol", "iorate", "partmgr", "rdyboost", "volsnap")
_ONLINE_ALL = 1
_FIRST_WITH_FAST_STARTUP = (6, 2)


def plan(facts: GuestFacts, windows: WindowsFacts) -> Iterator[Edit | Problem]:
    """Yield the edits of disks' settings, and what to know of filters that stay."""
    for control_set in windows.control_sets:
        for filters in control_set.filters:
            yield from _filters(windows, control_set, filters)
        yield from _settings(facts, windows, control_set)


def _filters(
    windows: WindowsFacts, control_set: ControlSet, filters: Filters
) -> Iterator[Edit | Problem]:
    """Take out filters whose driver is gone or useless: a device without one of them fails."""
    out: dict[str, str] = {}
    for name in filters.names:
        if name.lower() in _WINDOWS_OWN:
            continue
        service = control_set.service(name)
        if service is None:
            out[name] = "its driver is not installed"
        elif service.in_drivers and service.file not in windows.drivers:
            out[name] = f"its file {service.file} is missing"
        elif product := unwanted(name):
            out[name] = f"it belongs to {product}"
        elif control_set.name == windows.current:
            yield _stays(name, filters)
    if out:
        yield Edit(
            area=Area.STORAGE,
            what=f"take {', '.join(out)} out of {filters.device_class} ({control_set.name})",
            reason="; ".join(f"{name}: {why}" for name, why in out.items()),
            action=set_texts(
                windows.hive,
                rf"{control_set.name}\Control\Class\{filters.key}",
                filters.value,
                [name for name in filters.names if name not in out],
            ),
            before=f"{filters.value} {', '.join(filters.names)}",
        )


def _stays(name: str, filters: Filters) -> Problem:
    return Problem(
        severity=Severity.WARNING,
        code="unknown-filter",
        subject=name,
        message=f"{name} filters all devices of the class {filters.device_class} and is not "
        "Windows' own; it stays.",
        action="If the VM stops with 0x7B, uninstall its product on the source and convert again.",
    )


def _settings(facts: GuestFacts, windows: WindowsFacts, control_set: ControlSet) -> Iterator[Edit]:
    name, system = control_set.name, facts.system
    if control_set.san_policy != _ONLINE_ALL:
        yield Edit(
            area=Area.STORAGE,
            what=f"bring all disks online ({name})",
            reason="servers leave data disks offline when they appear on another controller",
            action=set_number(
                windows.hive, rf"{name}\Services\partmgr\Parameters", "SanPolicy", _ONLINE_ALL
            ),
            before=_was("SanPolicy", control_set.san_policy),
        )
    if control_set.fast_startup and (system.major, system.minor) >= _FIRST_WITH_FAST_STARTUP:
        yield Edit(
            area=Area.STORAGE,
            what=f"switch Fast Startup off ({name})",
            reason="it leaves file systems half written at shutdown, for other hardware to find",
            action=set_number(
                windows.hive, rf"{name}\Control\Session Manager\Power", "HiberbootEnabled", 0
            ),
            before=_was("HiberbootEnabled", control_set.fast_startup),
        )
    if control_set.auto_reboot:
        yield Edit(
            area=Area.BOOT,
            what=f"stay at a stop screen during the first start ({name})",
            reason="it would flash by and start over; the first start switches this back",
            action=set_number(windows.hive, rf"{name}\Control\CrashControl", "AutoReboot", 0),
            before=_was("AutoReboot", control_set.auto_reboot),
        )


def _was(name: str, number: int) -> str:
    return "" if number < 0 else f"{name} {number}"
