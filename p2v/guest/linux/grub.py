# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: the boot loader starts kernels that exist, with the root by UUID and a usable console.

Its files are corrected where they name devices, not generated anew: a generator run in the
appliance would write down the appliance's disks, and all else in them is as the guest wants it.
GRUB 2, BLS entries, legacy GRUB and extlinux hold the same kernel command lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, RenameFile, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.cmdline import corrected, lost_devices
from p2v.guest.linux.facts import MAX_TEXT, TextFile
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem, Severity

DEFAULTS = "/etc/default/grub"
GRUBENV = "/boot/grub2/grubenv"
DEVICE_MAPS = ("/boot/grub/device.map", "/boot/grub2/device.map")
MENUS = (
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/efi/EFI/*/grub.cfg",
    "/boot/loader/entries/*.conf",
    "/boot/efi/loader/entries/*.conf",
    "/efi/loader/entries/*.conf",
    "/boot/grub/menu.lst",
    "/boot/grub/grub.conf",
    "/boot/extlinux/extlinux.conf",
)
FILES: tuple[str, ...] = (*MENUS, DEFAULTS, GRUBENV, "/etc/kernel/cmdline")
PATHS: tuple[str, ...] = DEVICE_MAPS

_KERNEL = re.compile(r"^\s*(?:linux(?:16|efi)?|kernel|options|append)\s", re.IGNORECASE)
_VARIABLE = re.compile(r"^\s*(?:set\s+)?(?:GRUB_CMDLINE_LINUX\w*|kernelopts)=")
_IMAGE = re.compile(r"^\s*(?:linux(?:16|efi)?|kernel)\s+(/\S*?(?:vmlinu|kernel|linux)\S*)")
_SERIAL_MENU = re.compile(
    r"^(\s*(?:terminal_output\s+|GRUB_TERMINAL(?:_OUTPUT)?=\"?))serial(\"?\s*)$"
)
_DISK = re.compile(r"(?<![\w])hd(\d{1,2})(?=,)")
_LOADERS = {
    "/boot/grub*/grub.cfg": "GRUB 2",
    "/boot/efi/EFI/*/grub.cfg": "GRUB 2 (UEFI)",
    "*/loader/entries/*.conf": "boot loader entries",
    "/boot/grub/menu.lst": "GRUB legacy",
    "/boot/grub/grub.conf": "GRUB legacy",
    "/boot/extlinux/extlinux.conf": "extlinux",
}
_NO_UUID = re.compile(r"^(\s*)(GRUB_DISABLE_LINUX_UUID=.*)$")


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether there is a boot loader that p2v knows."""
    return bool(_menus(facts)) or linux(facts).file(DEFAULTS) is not None


def plan(facts: GuestFacts, _target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield an edit of each file that names fragile devices or only a serial console."""
    for file in linux(facts).files:
        if not _is_ours(file, facts):
            continue
        text = _corrected(file, facts)
        if file.cut and text != file.text:
            yield _too_long(file)
        elif text != file.text:
            yield Edit(
                Area.BOOT,
                f"name the disks as the VM does and keep a usable console in {file.path}",
                "the disks have other names in the VM, and its console is a screen",
                WriteFile(file.path, text),
            )
    for path in DEVICE_MAPS:
        if linux(facts).has(path):
            yield Edit(
                Area.BOOT,
                "let GRUB find its disks anew",
                f"{path} names disks of the source; GRUB makes its own list where there is none",
                RenameFile(path, f"{path}.before-p2v"),
            )


def check(appliance: Appliance, facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Look up what every kernel line of the edited menus names: its image and its root."""
    for file in _menus(facts):
        text = appliance.read(file.path, MAX_TEXT).decode("utf-8", "surrogateescape")
        missing: list[str] = []
        found = 0
        for line in filter(_KERNEL.match, text.split("\n")):
            missing += lost_devices(line, facts)
            if image := _IMAGE.match(line):
                found += 1
                if not _exists(appliance, image[1]):
                    missing.append(image[1])
        evidence = ", ".join(sorted(set(missing))) or f"{found} kernel lines, all with what exists"
        yield Check(f"{file.path} starts what exists", not missing, evidence)


def loaders(facts: GuestFacts) -> list[str]:
    """Return the boot loaders that the guest has a configuration of, for people."""
    found = (name for pattern, name in _LOADERS.items() if any(linux(facts).matching(pattern)))
    return list(dict.fromkeys(found))


def _menus(facts: GuestFacts) -> list[TextFile]:
    return [file for pattern in MENUS for file in linux(facts).matching(pattern)]


def _is_ours(file: TextFile, facts: GuestFacts) -> bool:
    return file in _menus(facts) or file.path in (DEFAULTS, GRUBENV, "/etc/kernel/cmdline")


def _corrected(file: TextFile, facts: GuestFacts) -> str:
    if file.path == "/etc/kernel/cmdline":
        return corrected(file.text, facts)
    text = "\n".join(_line(line, facts) for line in file.text.split("\n"))
    if file in _menus(facts) and _other_disk(text, facts):
        text = _DISK.sub("hd0", text)
    return _block(file.text, text) if file.path == GRUBENV else text


def _other_disk(menu: str, facts: GuestFacts) -> bool:
    """Return whether a menu is about one disk that was not the source's first, and now is."""
    numbers = set(_DISK.findall(menu))
    return len(facts.disks) == 1 and len(numbers) == 1 and numbers != {"0"}


def _line(line: str, facts: GuestFacts) -> str:
    if _KERNEL.match(line) or _VARIABLE.match(line):
        return corrected(line, facts)
    line = _NO_UUID.sub(r"\1# before p2v: \2", line)
    return _SERIAL_MENU.sub(r"\1serial console\2" if '"' in line else _quoted, line)


def _quoted(match: re.Match[str]) -> str:
    """Add the screen to the menu's terminals; a shell's value needs quotes for two words."""
    if match[1].lstrip().startswith("GRUB_"):
        return f'{match[1]}"serial console"{match[2]}'
    return f"{match[1]}serial console{match[2]}"


def _block(old: str, new: str) -> str:
    """Return a grubenv of the size it had: GRUB takes a block of 1024 bytes and no other."""
    return new.rstrip("#").ljust(len(old), "#") if len(new.rstrip("#")) <= len(old) else old


def _exists(appliance: Appliance, path: str) -> bool:
    """Return whether a menu's path exists; it begins at the volume of /boot, not at the root."""
    subvolume = re.sub(r"^/@[^/]*", "", path)
    return any(appliance.exists(one) for one in (path, f"/boot{path}", subvolume))


def _too_long(file: TextFile) -> Problem:
    return Problem(
        Severity.WARNING,
        "file-too-long",
        file.path,
        f"It is longer than {MAX_TEXT} bytes and is left as it is.",
        "Correct the device names in it by hand before the VM starts.",
    )
