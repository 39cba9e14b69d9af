# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect what the steps for Linux guests ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from p2v.guest.appliance import Appliance
from p2v.guest.facts import GuestFacts
from p2v.guest.inspect import ESP, MBR_ESP
from p2v.guest.linux.facts import MAX_TEXT, LinuxFacts, TextFile
from p2v.guest.linux.fallback_loader import ESP_FILES, unmounted_files
from p2v.guest.linux.kernels import find_kernels
from p2v.guest.linux.steps import load_steps
from p2v.model.errors import GuestError
from p2v.model.units import MiB

_MAX_FILES = 2000
_MAX_TOTAL = 16 * MiB
_DEFAULT = re.compile(r"^\s*(?:linux(?:16|efi)?|kernel)\s+\S*vmlinuz-(\S+)", re.MULTILINE)


def inspect(appliance: Appliance, found: GuestFacts) -> LinuxFacts:
    """Return the facts of a Linux guest whose file systems are mounted.

    Raises:
        GuestError: it can't be read, or has more configuration than any real one.
    """
    steps = load_steps()
    files = tuple(_files(appliance, sorted({one for step in steps for one in step.FILES})))
    patterns = sorted({pattern for step in steps for pattern in step.PATHS})
    paths = [path for pattern in patterns for path in appliance.glob(pattern)]
    if len(paths) > _MAX_FILES:
        raise GuestError(image=appliance.name, problem=f"{len(paths)} paths are too many to plan")
    esp = _unmounted_esp(found)
    esp_files = tuple(unmounted_files(appliance, found, esp, ESP_FILES)) if esp else ()
    return LinuxFacts(
        kernels=tuple(find_kernels(appliance)),
        files=files,
        paths=tuple(paths),
        default_kernel=_default(files),
        esp=esp,
        esp_files=esp_files[:_MAX_FILES],
    )


def _unmounted_esp(found: GuestFacts) -> str:
    """Return the EFI system partition, "" if the guest mounts it, or has none."""
    partitions = [volume for volume in found.volumes if volume.parttype in (ESP, MBR_ESP)]
    if not partitions or any(volume.mount_point for volume in partitions):
        return ""
    return partitions[0].device


def _files(appliance: Appliance, patterns: list[str]) -> Iterator[TextFile]:
    total = 0
    names = sorted({path for pattern in patterns for path in appliance.glob(pattern)})
    if len(names) > _MAX_FILES:
        problem = f"{len(names)} configuration files are too many to plan with"
        raise GuestError(image=appliance.name, problem=problem)
    for path in names:
        if not appliance.is_file(path):
            continue
        content = appliance.read(path, MAX_TEXT + 1)
        total += len(content)
        if total > _MAX_TOTAL:
            problem = "its configuration files are too large to plan with"
            raise GuestError(image=appliance.name, problem=problem)
        text = content[:MAX_TEXT].decode("utf-8", "surrogateescape")
        yield TextFile(path, text, cut=len(content) > MAX_TEXT)


def _default(files: tuple[TextFile, ...]) -> str:
    """Return the version of the kernel of a grub.cfg's first entry."""
    for file in files:
        if file.path.endswith("/grub.cfg") and (match := _DEFAULT.search(file.text)):
            return match[1]
    return ""
