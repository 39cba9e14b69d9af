# SPDX-License-Identifier: GPL-3.0-or-later
r"""Step: a VM's firmware, which has no boot entries yet, finds a loader at the path for that.

UEFI 2.10, 3.5.1.1: \EFI\BOOT\BOOTX64.EFI. Where the guest has shim, that is copied there with
the GRUB that it starts, so that Secure Boot goes on to work, and with GRUB's configuration, which
some distributions' GRUB looks for beside itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, CopyFile, Edit
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import FirmwareKind, Problem, Severity

FILES: tuple[str, ...] = ()
PATHS: tuple[str, ...] = tuple(f"{folder}/EFI/*/*" for folder in ("/boot/efi", "/efi", "/boot"))

_LOADER = re.compile(r"(?P<esp>/boot/efi|/efi|/boot)/EFI/(?P<vendor>[^/]+)/(?P<file>[^/]+)")
_FIRST = ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi", "refind_x64.efi", "elilo.efi")
_BESIDE = ("grubx64.efi", "mmx64.efi", "grub.cfg")


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether the guest starts by UEFI."""
    return facts.firmware is FirmwareKind.UEFI


def plan(facts: GuestFacts, _target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield the copies, unless there is such a loader."""
    found = _found(facts)
    if not found:
        yield Problem(
            Severity.WARNING,
            "no-efi-loader",
            "",
            "No loader was found on an EFI system partition that the guest mounts.",
            "If the VM does not start, boot it from a rescue system and run grub-install.",
        )
        return
    if any(_is_fallback(match) for match in found):
        return
    first = _best(found)
    if first is None:
        return
    folder = f"{first['esp']}/EFI/BOOT"
    reason = "the VM's firmware has no boot entry of the guest's"
    yield Edit(
        Area.BOOT,
        f"put {first['file']} where any firmware looks",
        reason,
        CopyFile(first[0], f"{folder}/BOOTX64.EFI"),
    )
    if not first["file"].lower().startswith("shim"):
        return
    for match in found:
        if match["vendor"] == first["vendor"] and match["file"].lower() in _BESIDE:
            yield Edit(
                Area.BOOT,
                f"put {match['file']} beside it",
                "shim starts the loader that lies beside it",
                CopyFile(match[0], f"{folder}/{match['file']}"),
            )


def check(appliance: Appliance, facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Look for the loader on the edited partition."""
    if _found(facts):
        folders = {match["esp"] for match in _found(facts)}
        there = [
            path
            for folder in sorted(folders)
            for path in appliance.glob(f"{folder}/EFI/[Bb][Oo][Oo][Tt]/[Bb][Oo][Oo][Tt][Xx]64.*")
        ]
        yield Check("firmware finds a loader", bool(there), ", ".join(there) or "no BOOTX64.EFI")


def _found(facts: GuestFacts) -> list[re.Match[str]]:
    return [match for path in linux(facts).paths if (match := _LOADER.fullmatch(path))]


def _is_fallback(match: re.Match[str]) -> bool:
    return match["vendor"].upper() == "BOOT" and match["file"].upper() == "BOOTX64.EFI"


def _best(found: list[re.Match[str]]) -> re.Match[str] | None:
    for name in _FIRST:
        for match in found:
            if match["file"].lower() == name:
                return match
    return None
