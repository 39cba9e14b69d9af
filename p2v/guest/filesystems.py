# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the guest's file systems, before they are edited and after; they must not be mounted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from p2v.guest.appliance import Appliance
from p2v.guest.facts import GuestFacts, Volume
from p2v.guest.report import Check
from p2v.model.errors import GuestError


def check_filesystems(appliance: Appliance, facts: GuestFacts, when: str) -> Iterator[Check]:
    """Check each file system that the system mounts; what a journal repairs is repaired.

    `when` says in the checks' names whether it is before or after the edits.
    """
    seen = set()
    for volume in facts.volumes:
        checker = _CHECKERS.get(volume.kind)
        if not volume.mount_point.startswith("/") or checker is None:
            continue
        with appliance.calling(f"looking at {volume.device}") as handle:
            device = handle.mountable_device(volume.device)
        if device not in seen:
            seen.add(device)
            yield _check(appliance, volume, device, when, checker)


def require_sound(checks: list[Check], image: str) -> None:
    """Raise if a check of `check_filesystems` failed.

    Raises:
        GuestError: it did; the first is named.
    """
    for check in checks:
        if not check.passed:
            problem = f"{check.name} found damage: {check.evidence}"
            raise GuestError(image=image, problem=problem)


_Checker = Callable[[Appliance, str], str]


def _check(
    appliance: Appliance, volume: Volume, device: str, when: str, checker: _Checker
) -> Check:
    name = f"{volume.kind} on {device} ({volume.mount_point}) {when}"
    try:
        problem = checker(appliance, device)
    except GuestError as error:
        problem = str(error.fields["problem"])
    return Check(name, not problem, problem or "no damage found")


def _ext(appliance: Appliance, device: str) -> str:
    """Replay the journal and look at everything; what needs a decision is damage."""
    with appliance.calling("e2fsck -f -p") as handle:
        handle.e2fsck(device, correct=True)
    return ""


def _xfs(appliance: Appliance, device: str) -> str:
    with appliance.calling("xfs_repair -n") as handle:
        return "xfs_repair -n would repair it" if handle.xfs_repair(device, nomodify=True) else ""


def _btrfs(appliance: Appliance, device: str) -> str:
    with appliance.calling("btrfs check") as handle:
        handle.btrfs_fsck(device)
    return ""


def _fat(appliance: Appliance, device: str) -> str:
    with appliance.calling("fsck.vfat") as handle:
        code = handle.fsck("vfat", device)
    return f"fsck.vfat ended with {code}" if code > 1 else ""


_CHECKERS: dict[str, _Checker] = {
    "ext2": _ext,
    "ext3": _ext,
    "ext4": _ext,
    "xfs": _xfs,
    "btrfs": _btrfs,
    "vfat": _fat,
}
