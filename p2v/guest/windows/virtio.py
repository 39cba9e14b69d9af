# SPDX-License-Identifier: GPL-3.0-or-later
r"""Drivers for virtio, from a folder or ISO of the converter: that of the virtio-win project.

The disk's driver is put in place with a service and an entry where Windows looks boot devices up:
the CriticalDeviceDatabase of Windows 7, the DriverDatabase of later ones. All are installed by the
first start, with `pnputil`. Two layouts of the folder are known: `NetKVM/2k19/amd64` (the ISO) and
`drivers/by-os/amd64/2k19` (the package).

https://github.com/virtio-win/virtio-win-pkg-scripts, https://docs.oasis-open.org/virtio/virtio/v1.3/
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from p2v.guest.edit import Area, Edit, SetValue, UploadFile
from p2v.guest.facts import GuestFacts, System
from p2v.guest.windows.facts import WindowsFacts
from p2v.guest.windows.firstboot import folder
from p2v.guest.windows.registry.hive import Kind
from p2v.guest.windows.values import set_bytes, set_number, set_text, set_texts
from p2v.model.errors import ToolError, UsageError

_WANTED = ("viostor", "vioscsi", "netkvm", "balloon", "vioserial", "viorng", "pvpanic")
_MAX_FILES = 100_000
_UNPACK_S = 600
_SCSI_CLASS = "{4D36E97B-E325-11CE-BFC1-08002BE10318}"
_CLASS_BYTES = bytes.fromhex("7be9364d25e3ce11bfc108002be10318")


@dataclass(frozen=True, slots=True)
class DiskDriver:
    """A driver of disks, and its PCI devices: the older kind, and that of virtio 1."""

    name: str
    devices: tuple[str, str]


DISK_DRIVERS = (
    DiskDriver(
        "viostor",
        (
            "VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00",
            "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01",
        ),
    ),
    DiskDriver(
        "vioscsi",
        (
            "VEN_1AF4&DEV_1004&SUBSYS_00081AF4&REV_00",
            "VEN_1AF4&DEV_1048&SUBSYS_11001AF4&REV_01",
        ),
    ),
)

_SERVERS = ((26100, "2k25"), (20348, "2k22"), (17763, "2k19"), (0, "2k16"))
_OLDER = {
    (6, 1): ("w7", "2k8r2"),
    (6, 2): ("w8", "2k12"),
    (6, 3): ("w8.1", "2k12r2"),
}


def names(system: System, windows: WindowsFacts) -> tuple[str, ...]:
    """Return virtio-win's names for a Windows, the best first."""
    server = windows.product not in ("", "WinNT")
    if older := _OLDER.get((system.major, system.minor)):
        return (older[server],)
    if server:
        return tuple(name for build, name in _SERVERS if windows.build >= build)
    return ("w11", "w10") if windows.build >= 22000 else ("w10",)


def find(source: str, system: System, windows: WindowsFacts) -> tuple[Path, ...]:
    """Return the drivers' files for a Windows, sorted; none if the folder has none for it."""
    arch = ("x86", "i386") if system.architecture == "i386" else ("amd64",)
    paths = []
    for path in _files(Path(source)) if source else ():
        parts = [part.lower() for part in path.relative_to(source).parts[:-1]]
        if any(part in arch for part in parts) and _usable(path, parts):
            paths.append((path, parts))
    for name in names(system, windows):
        if found := sorted(path for path, parts in paths if name in parts):
            return tuple(found)
    return ()


@contextmanager
def unpacked(source: Path | None) -> Iterator[str]:
    """Give the folder with the drivers of a folder, or of an ISO; "" for None.

    An ISO is unpacked, without what is for other purposes, for as long as the block lasts.

    Raises:
        UsageError: there is no such folder or file, or it is no ISO.
        ToolError: 7zz is not installed.
    """
    if source is None or source.is_dir():
        yield str(source or "")
        return
    if not source.is_file():
        raise UsageError(problem=f"There is no folder or ISO {source}.")
    with tempfile.TemporaryDirectory(prefix="p2v-virtio.") as folder:
        argv = ["7zz", "x", "-y", "-bd", f"-o{folder}", str(source), *_WANTED, "NetKVM", "Balloon"]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=_UNPACK_S, check=False
            )
        except FileNotFoundError:
            problem = "the program 7zz (Debian's package 7zip) is not installed"
            raise ToolError(tool="7zz", problem=problem) from None
        except subprocess.TimeoutExpired:
            problem = f"unpacking {source} took more than {_UNPACK_S} s"
            raise ToolError(tool="7zz", problem=problem) from None
        if done.returncode:
            raise UsageError(problem=f"{source} can't be unpacked; it is no ISO, or damaged.")
        yield folder


def plan(facts: GuestFacts, windows: WindowsFacts, files: tuple[Path, ...]) -> Iterator[Edit]:
    """Yield the edits that install the drivers in `files`."""
    target = f"{folder(windows)}/drivers"
    for path in files:
        yield Edit(
            area=Area.DRIVERS,
            what=f"add {path.name} for the first start",
            reason="virtio devices have no driver in Windows",
            action=UploadFile(f"{target}/{path.name.lower()}", str(path)),
        )
    for driver in disk_drivers(files):
        file = next(path for path in files if path.name.lower() == f"{driver.name}.sys")
        yield Edit(
            area=Area.DRIVERS,
            what=f"install {file.name}",
            reason="the VM's disk is reached through this driver",
            action=UploadFile(
                f"{windows.system_root}/System32/drivers/{driver.name}.sys", str(file)
            ),
        )
        for action in _registered(facts, windows, driver):
            yield Edit(
                area=Area.DRIVERS,
                what=f"start {driver.name} with the kernel",
                reason="the VM's disk is reached through this driver",
                action=action,
            )


def disk_drivers(files: tuple[Path, ...]) -> tuple[DiskDriver, ...]:
    """Return the drivers of disks among the files."""
    found = {path.name.lower() for path in files}
    return tuple(driver for driver in DISK_DRIVERS if f"{driver.name}.sys" in found)


def _files(source: Path) -> Iterator[Path]:
    for number, path in enumerate(source.rglob("*")):
        if number >= _MAX_FILES:
            return
        if path.is_file():
            yield path


def _usable(path: PurePath, folders: list[str]) -> bool:
    """Leave out what is for debugging, for SR-IOV, and drivers that nothing needs."""
    by_driver = "by-os" not in folders
    wanted = not by_driver or any(folder in _WANTED for folder in folders)
    clashes = path.stem.lower() == "qemufwcfg" or path.name.lower().startswith("vioprot.")
    return wanted and not clashes and path.suffix.lower() != ".pdb" and "sriov" not in folders


def _registered(facts: GuestFacts, windows: WindowsFacts, driver: DiskDriver) -> Iterator[SetValue]:
    for control_set in windows.control_sets:
        key = rf"{control_set.name}\Services\{driver.name}"
        yield set_number(windows.hive, key, "Type", 1)
        yield set_number(windows.hive, key, "Start", 0)
        yield set_number(windows.hive, key, "ErrorControl", 1)
        yield set_text(windows.hive, key, "Group", "SCSI miniport")
        path = rf"system32\drivers\{driver.name}.sys"
        yield set_text(windows.hive, key, "ImagePath", path, Kind.EXPAND_SZ)
        if not windows.driver_database:
            for device in driver.devices:
                entry = rf"{control_set.name}\Control\CriticalDeviceDatabase\PCI#{device}"
                yield set_text(windows.hive, entry, "Service", driver.name)
                yield set_text(windows.hive, entry, "ClassGUID", _SCSI_CLASS)
    if windows.driver_database:
        yield from _in_database(facts, windows.hive, driver)


def _in_database(facts: GuestFacts, hive: str, driver: DiskDriver) -> Iterator[SetValue]:
    """Yield a package of our own that binds the devices to the driver (Windows 8 and later)."""
    arch = 0 if facts.system.architecture == "i386" else 9
    inf, configuration = f"p2v-{driver.name}.inf", "p2v"
    package = f"{inf}_{'amd64' if arch else 'x86'}_0000000000000000"
    at = rf"DriverDatabase\DriverInfFiles\{inf}"
    yield set_texts(hive, at, "", [package])
    yield set_text(hive, at, "Active", package)
    yield set_texts(hive, at, "Configurations", [configuration])
    at = rf"DriverDatabase\DriverPackages\{package}"
    version = bytes([0, 0xFF, arch]) + bytes(5) + _CLASS_BYTES + bytes(24)
    yield set_bytes(hive, at, "Version", version)
    yield set_number(hive, rf"{at}\Configurations\{configuration}", "ConfigFlags", 0)
    yield set_text(hive, rf"{at}\Configurations\{configuration}", "Service", driver.name)
    for device in driver.devices:
        yield set_bytes(hive, rf"DriverDatabase\DeviceIds\PCI\{device}", inf, b"\x01\xff\0\0")
        yield set_text(hive, rf"{at}\Descriptors\PCI\{device}", "Configuration", configuration)
