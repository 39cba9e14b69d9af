# SPDX-License-Identifier: GPL-3.0-or-later
r"""Step: a VM's firmware, which has no boot entries yet, finds a loader at the path for that.

UEFI 2.10, 3.5.1.1: \EFI\BOOT\BOOTX64.EFI. Where the guest has shim, that is copied there with
the GRUB that it starts, so that Secure Boot goes on to work, and with GRUB's configuration, which
some distributions' GRUB looks for beside itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, CopyFile, Edit
from p2v.guest.facts import GuestFacts
from p2v.guest.inspect import mount
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import FirmwareKind, Problem, Severity

FILES: tuple[str, ...] = ()
ESP_FILES = "/EFI/*/*"
PATHS: tuple[str, ...] = tuple(f"{folder}{ESP_FILES}" for folder in ("/boot/efi", "/efi", "/boot"))

_LOADER = re.compile(r"(?P<esp>/boot/efi|/efi|/boot|)/EFI/(?P<vendor>[^/]+)/(?P<file>[^/]+)")
_FALLBACK = "/EFI/[Bb][Oo][Oo][Tt]/[Bb][Oo][Oo][Tt][Xx]64.*"
_FIRST = ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi", "refind_x64.efi", "elilo.efi")
_BESIDE = ("grubx64.efi", "mmx64.efi", "grub.cfg")


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a loader; `path` is on `device` if that is set, and `esp` the folder of /EFI."""

    path: str
    device: str
    esp: str
    vendor: str
    name: str


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether the guest starts by UEFI."""
    return facts.firmware is FirmwareKind.UEFI


def plan(facts: GuestFacts, _target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield the copies, unless there is such a loader."""
    found = _files(facts)
    first = _best(found)
    if any(_is_fallback(file) for file in found):
        return
    if first is None:
        yield Problem(
            Severity.WARNING,
            "no-efi-loader",
            "",
            "No loader that is known was found on an EFI system partition.",
            "If the VM does not start, boot it from a rescue system and run grub-install.",
        )
        return
    folder = f"{first.esp}/EFI/BOOT"
    yield Edit(
        Area.BOOT,
        f"put {first.name} where any firmware looks",
        "the VM's firmware has no boot entry of the guest's",
        CopyFile(first.path, f"{folder}/BOOTX64.EFI", first.device),
    )
    if not first.name.lower().startswith("shim"):
        return
    for file in found:
        if file.vendor == first.vendor and file.name.lower() in _BESIDE:
            yield Edit(
                Area.BOOT,
                f"put {file.name} beside it",
                "shim starts the loader that lies beside it",
                CopyFile(file.path, f"{folder}/{file.name}", file.device),
            )


def check(appliance: Appliance, facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Look for the loader on the edited partition."""
    if device := linux(facts).esp:
        there = unmounted_files(appliance, facts, device, _FALLBACK)
    else:
        folders = sorted({file.esp for file in _files(facts)})
        there = [path for folder in folders for path in appliance.glob(folder + _FALLBACK)]
    if _files(facts):
        yield Check("firmware finds a loader", bool(there), ", ".join(there) or "no BOOTX64.EFI")


def has_shim(facts: GuestFacts) -> bool:
    """Return whether the guest has the loader that Microsoft has signed for Linux."""
    return any(file.name.lower().startswith("shim") for file in _files(facts))


def unmounted_files(
    appliance: Appliance, facts: GuestFacts, device: str, pattern: str
) -> list[str]:
    """Return the paths that match a pattern on a volume that the guest mounts nowhere.

    The guest's own are unmounted meanwhile.
    """
    try:
        with appliance.calling(f"mounting {device}") as handle:
            handle.umount_all()
            handle.mount_ro(device, "/")
        return appliance.glob(pattern)
    finally:
        mount(appliance, facts, read_only=False)


def _files(facts: GuestFacts) -> list[_File]:
    found = linux(facts)
    paths = [(path, "") for path in found.paths] + [(path, found.esp) for path in found.esp_files]
    return [
        _File(path, device, match["esp"], match["vendor"], match["file"])
        for path, device in paths
        if (match := _LOADER.fullmatch(path))
    ]


def _is_fallback(file: _File) -> bool:
    return file.vendor.upper() == "BOOT" and file.name.upper() == "BOOTX64.EFI"


def _best(found: list[_File]) -> _File | None:
    for name in _FIRST:
        for file in found:
            if file.name.lower() == name:
                return file
    return None
