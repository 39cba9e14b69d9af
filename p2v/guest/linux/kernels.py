# SPDX-License-Identifier: GPL-3.0-or-later
"""Find a guest's kernels, the drivers they have, and those that their initramfs holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from p2v.guest.appliance import Appliance
from p2v.guest.linux.drivers import ALL
from p2v.guest.linux.facts import Driver, DriverState, Kernel
from p2v.model.units import MiB

_MAX_KERNELS = 32
_MAX_LIST = 8 * MiB
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:-]{0,127}")
_IMAGES = ("/boot/vmlinuz-{0}", "/boot/vmlinux-{0}", "/boot/kernel-{0}", "/lib/modules/{0}/vmlinuz")
_INITRAMFS = ("/boot/initrd.img-{0}", "/boot/initramfs-{0}.img", "/boot/initrd-{0}")
_ARCH_PACKAGE = "/lib/modules/{0}/pkgbase"
_LISTERS = (
    ("/usr/bin/lsinitramfs", "lsinitramfs"),
    ("/usr/bin/lsinitrd", "lsinitrd"),
    ("/bin/lsinitrd", "lsinitrd"),
    ("/sbin/lsinitrd", "lsinitrd"),
    ("/usr/bin/lsinitcpio", "lsinitcpio"),
)
_LIST_S = 300


def find_kernels(appliance: Appliance) -> Iterator[Kernel]:
    """Yield the installed kernels, newest first."""
    folders = appliance.glob("/lib/modules/*/modules.dep")
    versions = {path.split("/")[3] for path in folders}
    usable = sorted(filter(_VERSION.fullmatch, versions), key=_age, reverse=True)
    for version in usable[:_MAX_KERNELS]:
        image, initramfs = _files(appliance, version)
        yield Kernel(
            version=version,
            image=image,
            initramfs=initramfs,
            drivers=tuple(_drivers(appliance, version)),
            in_initramfs=tuple(modules_in(appliance, initramfs)) if initramfs else (),
            stamp=appliance.stamp(initramfs) if initramfs else "",
        )


def modules_in(appliance: Appliance, initramfs: str) -> list[str]:
    """Return which of the known drivers an initramfs holds, by the guest's own lister.

    An empty list where the guest has none.
    """
    program = next((name for path, name in _LISTERS if appliance.exists(path)), "")
    if not program:
        return []
    # Only the modules' names cross to the converter: a listing is thousands of lines.
    script = f"{program} \"$1\" | sed -n 's#.*/\\([^/ ]*\\)\\.ko[.a-z0-9]*$#\\1#p'"
    found = appliance.run(["sh", "-c", script, "sh", initramfs], _LIST_S).split()
    names = {name.replace("-", "_") for name in found}
    return [driver for driver in ALL if driver in names]


def _files(appliance: Appliance, version: str) -> tuple[str, str]:
    """Return the paths of a kernel's image and initramfs, "" for what isn't there."""
    image = _first(appliance, (path.format(version) for path in _IMAGES))
    initramfs = _first(appliance, (path.format(version) for path in _INITRAMFS))
    package = _ARCH_PACKAGE.format(version)
    if not initramfs and appliance.is_file(package):
        name = appliance.read(package, 128).decode("utf-8", "replace").strip()
        if _VERSION.fullmatch(name):
            image = _first(appliance, [f"/boot/vmlinuz-{name}"]) or image
            initramfs = _first(appliance, [f"/boot/initramfs-{name}.img"])
    return image, initramfs


def _first(appliance: Appliance, paths: Iterable[str]) -> str:
    return next((path for path in paths if appliance.is_file(path)), "")


def _drivers(appliance: Appliance, version: str) -> Iterator[Driver]:
    """Yield the known drivers with how the kernel has them (modules.dep, modules.builtin)."""
    modules = _names(appliance, f"/lib/modules/{version}/modules.dep")
    builtin = _names(appliance, f"/lib/modules/{version}/modules.builtin")
    for name in ALL:
        if name in modules:
            yield Driver(name, DriverState.MODULE)
        elif name in builtin:
            yield Driver(name, DriverState.BUILT_IN)
        else:
            yield Driver(name, DriverState.MISSING)


def _names(appliance: Appliance, path: str) -> set[str]:
    if not appliance.is_file(path):
        return set()
    text = appliance.read(path, _MAX_LIST).decode("utf-8", "replace")
    found = re.findall(r"^[^:\n]*/([^/:\n]+?)\.ko(?:\.\w+)?(?::|$)", text, re.MULTILINE)
    return {name.replace("-", "_") for name in found}


def _age(version: str) -> list[tuple[int, str]]:
    """Return a key that sorts versions by their numbers."""
    parts = re.findall(r"\d+|[A-Za-z]+", version)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
