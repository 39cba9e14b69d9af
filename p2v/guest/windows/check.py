# SPDX-License-Identifier: GPL-3.0-or-later
"""Check an edited Windows guest, with a reader of the registry other than its writer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zstandard

from p2v.guest.appliance import Appliance
from p2v.guest.edit import DeleteKey, Edits, SetValue
from p2v.guest.facts import GuestFacts
from p2v.guest.report import Check
from p2v.guest.target import Platform, Target
from p2v.guest.windows import boot, virtio
from p2v.guest.windows.facts import Service, WindowsFacts
from p2v.guest.windows.plan import of, plan
from p2v.guest.windows.registry.base import MAX_HIVE, HiveDamagedError
from p2v.guest.windows.registry.diff import Difference, differences
from p2v.guest.windows.registry.hive import Hive
from p2v.model.errors import GuestError

_SHOWN = 10


def check(appliance: Appliance, facts: GuestFacts, target: Target) -> Iterator[Check]:
    """Yield what the edited guest's registry and driver files say; `facts` are from before.

    Raises:
        GuestError: the guest can't be read.
    """
    windows = of(facts)
    edits = plan(facts, target)
    actions = [edit.action for edit in edits.edits] if isinstance(edits, Edits) else []
    registry = [one for one in actions if isinstance(one, SetValue | DeleteKey)]
    try:
        after = Hive(appliance.read(windows.hive, MAX_HIVE))
        before = Hive(zstandard.decompress(windows.snapshot, max_output_size=MAX_HIVE))
        yield from check_registry(before, after, registry)
        yield from _check_drivers(appliance, after, windows, target)
    except HiveDamagedError as error:
        yield Check("the registry can be read", passed=False, evidence=f"{windows.hive}: {error}")


def check_registry(
    before: Hive, after: Hive, actions: Sequence[SetValue | DeleteKey]
) -> Iterator[Check]:
    """Yield whether a hive differs from what it was by the planned actions, and by no more.

    Raises:
        HiveDamagedError: one of the hives is damaged.
    """
    wrong = [str(action) for action in actions if not _is_done(after, action)]
    yield Check(
        "registry values are as planned",
        passed=not wrong,
        evidence=_some(wrong) or f"{len(actions)} actions read back from the hive",
    )
    strange = [_shown(one) for one in differences(before, after) if not _is_planned(one, actions)]
    yield Check(
        "nothing else in the registry changed",
        passed=not strange,
        evidence=_some(strange) or "every other key, value and permission is what it was",
    )


def _is_done(hive: Hive, action: SetValue | DeleteKey) -> bool:
    key = hive.find(action.key)
    if isinstance(action, DeleteKey):
        return key is None
    value = key.value(action.name) if key else None
    return value is not None and (value.kind, value.data.hex()) == (action.kind, action.data)


def _is_planned(difference: Difference, actions: Sequence[SetValue | DeleteKey]) -> bool:
    key = difference.key.casefold()
    name = None if difference.name is None else difference.name.casefold()
    for action in actions:
        planned = action.key.casefold()
        if isinstance(action, DeleteKey):
            if difference.after is None and f"{key}\\".startswith(f"{planned}\\"):
                return True
        elif name is None:
            made = difference.before is None and difference.after is not None
            if made and f"{planned}\\".startswith(f"{key}\\"):
                return True
        elif (key, name) == (planned, action.name.casefold()):
            return True
    return False


def _check_drivers(
    appliance: Appliance, hive: Hive, windows: WindowsFacts, target: Target
) -> Iterator[Check]:
    """Yield whether each driver that the VM's disk needs starts, and has its file."""
    folder = f"{windows.system_root}/System32/drivers"
    with appliance.calling(f"listing {folder}") as handle:
        there = {name.lower() for name in handle.ls(handle.case_sensitive_path(folder))}
    names = list(boot.startable(windows, target))
    if target.platform is Platform.KVM:
        names += [driver.name for driver in virtio.DISK_DRIVERS]
    for name in names:
        key = hive.find(rf"{windows.current}\Services\{name}")
        if key is None:
            continue  # one of virtio's two, which the folder with drivers does not have
        start, held = key.number("Start"), key.subkey("StartOverride") is not None
        file = Service(name, start or 0, image=key.text("ImagePath")).file
        found = _described(appliance, f"{folder}/{file}") if file in there else "is missing"
        state = f"Start {start}{', held back' if held else ''}"
        yield Check(
            f"{name} starts with the kernel",
            passed=start == 0 and not held and found not in ("", "is missing"),
            evidence=f"{state}, {file} {found or 'is empty'}",
        )


def _described(appliance: Appliance, path: str) -> str:
    """Return what a file is, "" for an empty one.

    Compressed as CompactOS does it, files can't be read here, and Windows starts with them.
    """
    try:
        size = appliance.size(appliance.spelled(path))
    except GuestError:
        return "is there, compressed by Windows"
    return f"has {size} bytes" if size else ""


def _shown(difference: Difference) -> str:
    if difference.name is None:
        return difference.key
    return rf"{difference.key}\{difference.name}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more
