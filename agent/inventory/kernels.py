# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the installed kernels have the drivers of a virtual machine's devices.

Only of the system that runs: of a disk that is not mounted the conversion looks into the image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from p2v.model.machine import Problem, Severity

NEEDED = {
    "Hyper-V": frozenset({"hv_vmbus", "hv_storvsc", "hv_netvsc"}),
    "KVM": frozenset({"virtio_pci", "virtio_net"}),
}
"""Modules by host: its bus, its disks, its network."""
_DISKS = {"KVM": frozenset({"virtio_blk", "virtio_scsi"})}
"""Of these one is enough."""
_LISTS = ("modules.dep", "modules.builtin")


def check_kernels(root: Path = Path("/"), running: str | None = None) -> Iterator[Problem]:
    """Yield a warning for each installed kernel that lacks what a host needs.

    Kernels without a file in /boot and not running are leftovers; one without a list of modules
    tells nothing.
    """
    running = os.uname().release if running is None else running
    for folder in sorted((root / "lib/modules").glob("*")):
        version = folder.name
        if version != running and not list((root / "boot").glob(f"*{version}")):
            continue
        modules = _modules(folder)
        for host in NEEDED if modules else ():
            if lacking := _lacking(host, modules):
                yield Problem(
                    Severity.WARNING,
                    "no-vm-drivers",
                    version,
                    f"The kernel {version} has no drivers for {host}: {', '.join(lacking)}.",
                    f"Install a kernel that has them if the machine is to run on {host}.",
                )


def _lacking(host: str, modules: set[str]) -> list[str]:
    lacking = sorted(NEEDED[host] - modules)
    disks = _DISKS.get(host, frozenset())
    return lacking if not disks or disks & modules else [*lacking, " or ".join(sorted(disks))]


def _modules(folder: Path) -> set[str]:
    """Return the names of a kernel's modules, those that are built in too."""
    found = set()
    for name in _LISTS:
        try:
            with (folder / name).open(errors="replace") as lines:
                paths = [line.partition(":")[0].strip() for line in lines]
        except OSError:
            return set()
        found |= {Path(path).name.partition(".")[0].replace("-", "_") for path in paths}
    return found - {""}
