# SPDX-License-Identifier: GPL-3.0-or-later
"""Inspect a Windows guest in the appliance; nothing of it is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import zstandard

from p2v.guest.appliance import Appliance
from p2v.guest.facts import GuestFacts
from p2v.guest.inspect import ESP, mount
from p2v.guest.windows import hivefacts
from p2v.guest.windows.facts import SystemPartition, VolumeState, WindowsFacts
from p2v.guest.windows.loader import FALLBACKS, MANAGER
from p2v.guest.windows.ntfs import marked_dirty
from p2v.guest.windows.registry.base import HiveDamagedError
from p2v.guest.windows.registry.editor import read_hive
from p2v.guest.windows.registry.hive import Hive
from p2v.model.errors import GuestError

_HIBERNATED, _CLEAN = 14, 0
"""Exit codes of ntfs-3g.probe(8)."""
_DYNAMIC_VOLUME = "/dev/mapper/ldm_"
_DYNAMIC_PARTITION = "af9b60a0-1431-4f62-bc68-3311714a69ad"
"""What Windows' logical disk manager makes: libguestfs's name for it, and its partitions' type."""
_PACKAGES = ("wvmbus", "wstorvsc", "wstorflt", "mshdc")
_MAX_PACKAGES = 1000


class _Version(NamedTuple):
    build: int
    edition: str


def inspect(appliance: Appliance, found: GuestFacts) -> WindowsFacts:
    """Return the facts of the Windows that `found` describes; it stays mounted read-only.

    Raises:
        GuestError: its file systems can't be read.
    """
    root = found.system.root
    with appliance.calling("looking for Windows' folder") as handle:
        system_root: str = handle.inspect_get_windows_systemroot(root)
        hive: str = handle.inspect_get_windows_system_hive(root)
        software: str = handle.inspect_get_windows_software_hive(root)
    if _is_dynamic(found):
        return WindowsFacts(system_root=system_root, hive=hive, dynamic=True)
    facts = WindowsFacts(
        system_root=system_root,
        hive=hive,
        logs=tuple(_logs(appliance, hive)),
        drivers=_names(appliance, f"{system_root}/System32/drivers"),
        packages=tuple(_packages(appliance, system_root)),
        powershell=_has(appliance, f"{system_root}/System32/WindowsPowerShell/v1.0/powershell.exe"),
    )
    version = _version(appliance, software)
    facts = replace(facts, build=version.build, edition=version.edition)
    return _with_unmounted(appliance, found, _with_hive(appliance, facts))


def _is_dynamic(found: GuestFacts) -> bool:
    root = found.system.root
    types = {volume.parttype for volume in found.volumes if volume.device == root}
    return root.startswith(_DYNAMIC_VOLUME) or _DYNAMIC_PARTITION in types


def _with_hive(appliance: Appliance, facts: WindowsFacts) -> WindowsFacts:
    try:
        recovered = read_hive(appliance, facts.hive, facts.logs)
        read = hivefacts.read(Hive(recovered.data))
    except HiveDamagedError as error:
        return replace(facts, damage=str(error))
    return replace(
        facts,
        recovered=recovered.applied,
        current=read.current,
        control_sets=read.control_sets,
        product=read.product,
        driver_database=read.driver_database,
        interfaces=read.interfaces,
        snapshot=zstandard.compress(recovered.data, 1),
    )


def _with_unmounted(appliance: Appliance, found: GuestFacts, facts: WindowsFacts) -> WindowsFacts:
    """Add what can be seen only while the guest's own volumes are not mounted."""
    with appliance.calling("unmounting its file systems") as handle:
        handle.umount_all()
    try:
        return replace(
            facts,
            state=_state(appliance, found.system.root),
            system_partition=_system_partition(appliance, found),
        )
    finally:
        mount(appliance, found, read_only=True)


def _state(appliance: Appliance, device: str) -> VolumeState:
    with appliance.calling(f"probing {device}") as handle:
        code = handle.ntfs_3g_probe(True, device)
        if code == _HIBERNATED:
            return VolumeState.HIBERNATED
        if code != _CLEAN or marked_dirty(lambda at, count: handle.pread_device(device, count, at)):
            return VolumeState.UNCLEAN
    return VolumeState.CLEAN


def _system_partition(appliance: Appliance, found: GuestFacts) -> SystemPartition | None:
    """Return the first EFI system partition, preferably with Windows' boot manager on it."""
    partitions = []
    fallback = FALLBACKS.get(found.system.architecture, MANAGER)
    for volume in found.volumes:
        if volume.parttype == ESP:
            with appliance.calling(f"mounting {volume.device}") as handle:
                handle.mount_ro(volume.device, "/")
            partitions.append(
                SystemPartition(
                    volume.device, appliance.is_file(MANAGER), appliance.is_file(fallback)
                )
            )
            with appliance.calling(f"unmounting {volume.device}") as handle:
                handle.umount_all()
    partitions.sort(key=lambda partition: not partition.manager)
    return partitions[0] if partitions else None


def _version(appliance: Appliance, software: str) -> _Version:
    """Return what the SOFTWARE hive says; its logs hold nothing that matters here."""
    with appliance.calling(f"reading {software}") as handle:
        handle.hivex_open(software)
        try:
            node = handle.hivex_root()
            for name in ("Microsoft", "Windows NT", "CurrentVersion"):
                node = node and handle.hivex_node_get_child(node, name)
            texts = {}
            for name in ("CurrentBuildNumber", "CurrentBuild", "EditionID"):
                value = node and handle.hivex_node_get_value(node, name)
                texts[name] = handle.hivex_value_utf8(value) if value else ""
        finally:
            handle.hivex_close()
    build = texts["CurrentBuildNumber"] or texts["CurrentBuild"]
    return _Version(int(build) if build.isdecimal() else 0, texts["EditionID"])


def _logs(appliance: Appliance, hive: str) -> Iterator[str]:
    """Yield the hive's logs; a .LOG beside the two of Vista and later is a leftover of Setup."""
    pair = [path for path in (f"{hive}.LOG1", f"{hive}.LOG2") if _has(appliance, path)]
    for path in pair or [f"{hive}.LOG"]:
        if _has(appliance, path):
            yield appliance.spelled(path)


def _has(appliance: Appliance, path: str) -> bool:
    with suppress(GuestError):  # a folder on the way is not there
        return appliance.is_file(appliance.spelled(path))
    return False


def _names(appliance: Appliance, folder: str) -> tuple[str, ...]:
    with appliance.calling(f"listing {folder}") as handle:
        return tuple(sorted(name.lower() for name in handle.ls(handle.case_sensitive_path(folder))))


def _packages(appliance: Appliance, system_root: str) -> Iterator[str]:
    store = f"{system_root}/System32/DriverStore/FileRepository"
    with suppress(GuestError):  # it has no driver store
        at = appliance.spelled(store)
        for name in _PACKAGES:
            yield from appliance.glob(f"{at}/{name}.inf_*/*.sys")[:_MAX_PACKAGES]
