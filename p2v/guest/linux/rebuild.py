# SPDX-License-Identifier: GPL-3.0-or-later
"""When an initramfs must be made anew, and with what; shared by the steps that make one.

It costs minutes where the appliance is emulated, so it is done only where it must be. A .link file
that names a network interface is no reason by itself. Hyper-V's interfaces have no slot: udev in an
initramfs leaves them eth0, and the system's own udev gives them their names later. KVM's get names
by slot there if their driver is there too, and systemd before 240 does not rename them again
(https://github.com/systemd/systemd/issues/9006).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.edit import Edit, RenameFile, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.inspect import UNLOCKED
from p2v.guest.linux.drivers import FILE_SYSTEMS, NETWORK, unfit, wanted_in_initramfs
from p2v.guest.linux.facts import DriverState, Kernel
from p2v.guest.linux.grub import DEFAULTS, MENUS
from p2v.guest.linux.steps import linux
from p2v.guest.target import Platform, Target
from p2v.model.machine import Problem, Severity
from p2v.model.units import MiB, format_size

FILES: tuple[str, ...] = ("/etc/initramfs-tools/initramfs.conf", "/etc/initramfs-tools/conf.d/*")
_DROPBEAR = ("/etc/dropbear/initramfs", "/etc/dropbear-initramfs")
_SYSTEMD = tuple(
    f"{folder}/systemd/libsystemd-shared-*.so" for folder in ("/lib", "/usr/lib", "/usr/lib/*")
)
PATHS: tuple[str, ...] = (*_DROPBEAR, *_SYSTEMD)
"""What tells, with the kernels' command lines, whether the guest uses the network early."""

_COPIED = ("/etc/crypttab", "/etc/lvm/", "/etc/mdadm")
"""Configuration of which an initramfs holds a copy; its /etc/fstab is an empty file, or none."""
_LINKS = "/etc/systemd/network/"
_EARLY_NETWORK = re.compile(
    r"^\s*IP=[\"']?(?!off|none)[\w:]"
    r"|(?<![^\s\"'=])(?:ip=(?!off|none)[\w:]|rd\.neednet=1|netroot=|root=/dev/nfs)",
    re.MULTILINE,
)
_VERSION = re.compile(r"/libsystemd-shared-(\d+)\D")
_RENAMES_AGAIN = 240
_MAPPED = re.compile(r"/dev/(?:mapper/.+|[^/]+/[^/]+)")
_ROOM = 64 * MiB
TIMEOUT_S = 3600


def kernels(facts: GuestFacts, target: Target) -> list[Kernel]:
    """Return the kernels that have an initramfs and can run on the target."""
    return [
        kernel
        for kernel in linux(facts).kernels
        if kernel.initramfs and not unfit(kernel, target.platform)
    ]


def needs_network_early(facts: GuestFacts) -> bool:
    """Return whether the guest uses the network before its root is mounted.

    It may be unlocked over it (dropbear), or have its root there.
    """
    found = linux(facts)
    files = (file for pattern in (*FILES, *MENUS, DEFAULTS) for file in found.matching(pattern))
    return any(map(found.has, _DROPBEAR)) or any(_EARLY_NETWORK.search(file.text) for file in files)


def wanted(kernel: Kernel, facts: GuestFacts, target: Target) -> list[str]:
    """Return the drivers that the initramfs of a kernel must hold."""
    network = needs_network_early(facts)
    of_root = (one for one in _of_root(facts) if kernel.state(one) is DriverState.MODULE)
    return [*wanted_in_initramfs(kernel, target.platform, network=network), *of_root]


def reason(facts: GuestFacts, target: Target, planned: Sequence[Edit]) -> str:
    """Return why the initramfs must be made anew, "" if they are right as they are."""
    lacking = [
        f"that of {kernel.version} lacks {', '.join(missing)}"
        for kernel in kernels(facts, target)
        if (missing := [one for one in wanted(kernel, facts, target) if not kernel.holds(one)])
    ]
    if lacking:
        return "; ".join(lacking)
    copied = sorted(set(_copied(facts, target, planned)))
    return f"it holds copies of {', '.join(copied)}" if copied else ""


def modules(facts: GuestFacts, target: Target) -> list[str]:
    """Return the drivers to name: those that any of the kernels has as a module."""
    each = (wanted(kernel, facts, target) for kernel in kernels(facts, target))
    return list(dict.fromkeys(driver for drivers in each for driver in drivers))


def room_problem(facts: GuestFacts) -> Problem | None:
    """Return a warning where /boot may be too small for another initramfs."""
    boot = facts.mounted("/boot")
    if boot is None or not 0 <= boot.free < _ROOM:
        return None
    return Problem(
        Severity.WARNING,
        "little-room",
        boot.mount_point,
        f"Only {format_size(boot.free)} are free where the initramfs are made.",
        "If that fails, remove old kernels on the source and capture it again.",
    )


def _of_root(facts: GuestFacts) -> Iterator[str]:
    """Yield the modules that the root file system needs, whatever disk it lies on."""
    root = facts.mounted("/")
    if root is None:
        return
    if root.kind in FILE_SYSTEMS:
        yield root.kind
    if _MAPPED.fullmatch(root.device):
        yield "dm_mod"
    if root.device.startswith(UNLOCKED):
        yield "dm_crypt"


def _copied(facts: GuestFacts, target: Target, planned: Sequence[Edit]) -> Iterator[str]:
    """Yield the paths of edited files that an initramfs has its own copy of."""
    held = (*_COPIED, _LINKS) if _names_interfaces(facts, target) else _COPIED
    for edit in planned:
        if isinstance(edit.action, WriteFile | RenameFile) and edit.action.path.startswith(held):
            yield edit.action.path


def _names_interfaces(facts: GuestFacts, target: Target) -> bool:
    """Return whether udev in an initramfs settles the names of network interfaces."""
    if needs_network_early(facts):
        return True
    if target.platform is not Platform.KVM or _systemd(facts) >= _RENAMES_AGAIN:
        return False
    return any(kernel.holds(NETWORK[Platform.KVM]) for kernel in kernels(facts, target))


def _systemd(facts: GuestFacts) -> int:
    """Return the version of the guest's systemd, 0 if it is not known."""
    found = (_VERSION.search(path) for path in linux(facts).paths)
    return max((int(match[1]) for match in found if match), default=0)
