# SPDX-License-Identifier: GPL-3.0-or-later
"""Made-up Linux guests: facts as inspection would find them, for tests of the pure planner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from p2v.guest.edit import Edit, WriteFile
from p2v.guest.facts import Disk, Family, GuestFacts, System, Volume
from p2v.guest.linux.drivers import ALL
from p2v.guest.linux.facts import Driver, DriverState, Kernel, LinuxFacts, TextFile
from p2v.guest.target import NicAddress, Platform, Target
from p2v.model.machine import FirmwareKind, Problem

ROOT = "11111111-1111-1111-1111-111111111111"
SWAP = "22222222-2222-2222-2222-222222222222"
DATA = "33333333-3333-3333-3333-333333333333"

VOLUMES = (
    Volume("/dev/sda1", "", size=1 << 20),
    Volume("/dev/sda2", "swap", SWAP, "swap", partuuid="aaaa-02", size=1 << 29),
    Volume("/dev/sda3", "ext4", ROOT, "root", partuuid="aaaa-03", size=1 << 32, mount_point="/"),
    Volume("/dev/sda4", "xfs", DATA, "data", size=1 << 30, mount_point="/srv"),
)
TOOLS = (
    "/usr/sbin/update-initramfs",
    "/usr/sbin/mkinitramfs",
    "/usr/lib/systemd/systemd",
    "/usr/lib/systemd/systemd-udevd",
)


def kernel(version="6.1.0-9-amd64", *, held: Iterable[str] = ALL, missing: Iterable[str] = ()):
    """Return a kernel that has all drivers but `missing`, and holds `held` in its initramfs."""
    drivers = tuple(
        Driver(name, DriverState.MISSING if name in missing else DriverState.MODULE) for name in ALL
    )
    return Kernel(
        version, f"/boot/vmlinuz-{version}", f"/boot/initrd.img-{version}", drivers, tuple(held)
    )


def guest(
    files: Mapping[str, str] | None = None,
    *,
    paths: Sequence[str] = TOOLS,
    kernels: Sequence[Kernel] | None = None,
    volumes: Sequence[Volume] = VOLUMES,
    disks: int = 1,
    firmware: FirmwareKind = FirmwareKind.BIOS,
    architecture: str = "x86_64",
) -> GuestFacts:
    """Return the facts of a guest with these configuration files."""
    return GuestFacts(
        System(
            Family.LINUX, "/dev/sda3", "Debian 12", "debian", 12, 0, architecture, hostname="web01"
        ),
        firmware,
        tuple(Disk(f"/dev/sd{'abcdef'[index]}", 1 << 33, "gpt") for index in range(disks)),
        tuple(volumes),
        linux=LinuxFacts(
            kernels=tuple([kernel()] if kernels is None else kernels),
            files=tuple(TextFile(path, text) for path, text in sorted((files or {}).items())),
            paths=tuple(paths),
        ),
    )


def hyperv(
    firmware: FirmwareKind = FirmwareKind.BIOS, nics: Mapping[str, str] | None = None
) -> Target:
    """Return a VM of Hyper-V."""
    known = tuple(NicAddress(name, mac) for name, mac in (nics or {}).items())
    return Target(Platform.HYPERV, firmware, known)


def kvm(firmware: FirmwareKind = FirmwareKind.BIOS, nics: Mapping[str, str] | None = None):
    """Return a VM of KVM."""
    known = tuple(NicAddress(name, mac) for name, mac in (nics or {}).items())
    return Target(Platform.KVM, firmware, known)


def written(outcomes: Iterable[Edit | Problem], path: str) -> str | None:
    """Return the text that the edits give a file, None if they leave it alone."""
    texts = [
        one.action.text
        for one in outcomes
        if isinstance(one, Edit) and isinstance(one.action, WriteFile) and one.action.path == path
    ]
    assert len(texts) < 2
    return texts[0] if texts else None


def problems(outcomes: Iterable[Edit | Problem]) -> list[str]:
    """Return the codes of the problems."""
    return [one.code for one in outcomes if isinstance(one, Problem)]
