# SPDX-License-Identifier: GPL-3.0-or-later
"""The hardware check: devices that nothing drives, and firmware that was asked for in vain.

A disk controller without a driver is a disk that nobody migrates; so it is named, with what to
look for, and drivers and firmware can be brought along on a stick.

Sources: Documentation/ABI/testing/sysfs-bus-pci and sysfs-bus-usb; the class codes are those of
the PCI Code and ID Assignment Specification; the messages those of drivers/base/firmware_loader.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent import tools
from p2v.model.errors import ToolError

SYSFS = Path("/sys")
FIRMWARE_FOLDER = "firmware"
DRIVERS_FOLDER = "drivers"
_PCI_CLASSES = {
    "01": "storage controller",
    "02": "network controller",
    "0c03": "USB controller",
    "0c04": "Fibre Channel controller",
    "0c06": "InfiniBand controller",
}
_USB_CLASSES = {"02": "network interface", "08": "storage", "e0": "network interface"}
_FIRMWARE = re.compile(
    r"(?:Direct firmware load for|firmware: failed to load|failed to load firmware) "
    r"[\"']?([A-Za-z0-9_./+-]+)"
)


@dataclass(frozen=True, slots=True)
class Device:
    """A device without a driver. `id` is vendor:device in hexadecimal."""

    bus: str
    address: str
    id: str
    kind: str
    name: str
    modules: tuple[str, ...]
    """Kernel modules here that know it, and still do not drive it."""

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.modules:
            known = " or ".join(self.modules)
            return f"{known} knows it and does not drive it; 'dmesg' has its reason."
        return (
            f"Look for a Linux driver for {self.bus.upper()} {self.id}, and put it into the folder "
            "'drivers' of a stick labelled P2VCONF (docs/iso.md, 'Drivers and firmware')."
        )


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the check found."""

    undriven: tuple[Device, ...]
    missing_firmware: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `p2v-agent hardware --json`."""
        return {
            "schema": 1,
            "undriven": [asdict(device) | {"advice": device.advice} for device in self.undriven],
            "missing_firmware": list(self.missing_firmware),
        }


def check_hardware(sysfs: Path = SYSFS, kernel_log: str | None = None) -> Hardware:
    """Return the disk, network and USB devices without a driver, and the firmware that is missing.

    `kernel_log` is the kernel's by default.
    """
    if kernel_log is None:
        kernel_log = _kernel_log()
    return Hardware((*_pci(sysfs), *_usb(sysfs)), missing_firmware(kernel_log))


def missing_firmware(kernel_log: str) -> tuple[str, ...]:
    """Return the names of the firmware files that drivers asked for and did not get."""
    return tuple(dict.fromkeys(found[1] for found in _FIRMWARE.finditer(kernel_log)))


def load_from(folder: Path) -> list[str]:
    """Install what is in `folder`, and let devices without a driver be tried again.

    ``firmware/`` is laid out like /usr/lib/firmware, ``drivers/`` holds modules (``*.ko``, also
    compressed) for the running kernel. Returns the names of the files installed.

    Raises:
        ToolError: depmod failed.
        OSError: a file can't be copied.
    """
    release = os.uname().release
    firmware = _copy(folder / FIRMWARE_FOLDER, Path("/usr/lib/firmware/updates"))
    drivers = _copy(folder / DRIVERS_FOLDER, Path("/usr/lib/modules", release, "updates"))
    if drivers:
        tools.run(["depmod"], timeout_s=300)
    if firmware or drivers:
        for device in check_hardware().undriven:
            _try_again(device)
    return [*firmware, *drivers]


def _copy(source: Path, target: Path) -> list[str]:
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return [str(path.relative_to(source.parent)) for path in files]


def _try_again(device: Device) -> None:
    """Load and bind what knows `device`; a driver that gave up for want of firmware, too."""
    folder = SYSFS / "bus" / device.bus / "devices" / device.address
    for module in _modules(_line(folder / "modalias")):
        try:
            tools.run(["modprobe", module])
        except ToolError:
            continue  # the check that follows shows the device again
    probe = SYSFS / "bus" / device.bus / "drivers_probe"
    if not (folder / "driver").exists():
        try:
            probe.write_text(device.address)
        except OSError:
            return


def _pci(sysfs: Path) -> Iterator[Device]:
    for folder in sorted((sysfs / "bus/pci/devices").glob("*")):
        code = _line(folder / "class").removeprefix("0x")
        kind = _PCI_CLASSES.get(code[:2]) or _PCI_CLASSES.get(code[:4])
        if kind and not (folder / "driver").exists():
            yield _device("pci", folder, ("vendor", "device"), kind, _pci_name(folder.name))


def _usb(sysfs: Path) -> Iterator[Device]:
    for folder in sorted((sysfs / "bus/usb/devices").glob("*:*")):
        kind = _USB_CLASSES.get(_line(folder / "bInterfaceClass"))
        if kind and not (folder / "driver").exists():
            parent = folder.resolve().parent
            name = " ".join(filter(None, (_line(parent / n) for n in ("manufacturer", "product"))))
            yield _device("usb", folder, ("../idVendor", "../idProduct"), kind, name)


def _device(bus: str, folder: Path, ids: Iterable[str], kind: str, name: str) -> Device:
    real = folder.resolve()
    number = ":".join(_line(real / part).removeprefix("0x") for part in ids)
    modules = tuple(_modules(_line(folder / "modalias")))
    return Device(bus, folder.name, number, kind, name, modules)


def _modules(modalias: str) -> list[str]:
    if not modalias:
        return []
    try:
        return tools.run(["modprobe", "--resolve-alias", modalias], accept=(0, 1)).decode().split()
    except ToolError:
        return []


def _pci_name(address: str) -> str:
    try:
        said = tools.run(["lspci", "-s", address]).decode(errors="replace")
    except ToolError:
        return ""
    return said.partition(" ")[2].strip()


def _kernel_log() -> str:
    try:
        return tools.run(["dmesg"]).decode(errors="replace")
    except ToolError:
        return ""


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
