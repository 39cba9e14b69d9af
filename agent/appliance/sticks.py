# SPDX-License-Identifier: GPL-3.0-or-later
"""The administrator's own media, known by the labels of their file systems.

``P2VCONF`` brings answers, drivers and firmware and is mounted read-only; ``P2VDATA``, or another
label that the settings name, takes streams and evidence. It alone is made writable again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from agent import tools
from p2v.model.errors import UsageError

CONFIG_LABEL = "P2VCONF"
DATA_LABEL = "P2VDATA"
OWN_LABELS = ("P2V", CONFIG_LABEL, DATA_LABEL)
SYSFS = Path("/sys")
_POLL_S = 0.2
_MOUNTS = Path("/run/p2v/media")
_MOUNTABLE = ("vfat", "exfat", "ext4", "xfs", "ntfs", "iso9660")
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,32}")


def find(label: str) -> Path | None:
    """Return the device whose file system has this label, None if there is none.

    Raises:
        UsageError: two have it, or it can be no label.
        ToolError: blkid failed.
    """
    if not _LABEL.fullmatch(label):
        raise UsageError(problem=f"'{label}' can be no label of a file system")
    found = (
        tools.run(
            ["blkid", "-c", "/dev/null", "-t", f"LABEL={label}", "-o", "device"], accept=(0, 2)
        )
        .decode()
        .split()
    )
    if len(found) > 1:
        raise UsageError(
            problem=f"{' and '.join(found)} both have the label {label}; take one of them out"
        )
    return Path(found[0]) if found else None


def await_usb(seconds: float, sysfs: Path = SYSFS) -> None:
    """Wait until every USB drive that was plugged in is there as a disk, but not for long.

    Drivers give sticks a second or more to wake up, and nothing else waits for them.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(map(_has_disk, _usb_drives(sysfs))):
        time.sleep(_POLL_S)


def _usb_drives(sysfs: Path) -> list[Path]:
    drivers = (sysfs / "bus/usb/drivers" / name for name in ("usb-storage", "uas"))
    return [path for driver in drivers for path in driver.glob("*:*")]


def _has_disk(interface: Path) -> bool:
    return any(interface.glob("host*/target*/*/block/*"))


@contextmanager
def mounted(label: str, *, writable: bool = False) -> Iterator[Path | None]:
    """Mount the file system with this label for the block; None where there is none.

    A writable one is made so first: on this system all disks are read-only. Afterwards it is
    read-only again.

    Raises:
        UsageError: like `find`, or it holds none of the file systems that can be mounted.
        ToolError: it cannot be mounted.
    """
    device = find(label)
    if device is None:
        yield None
        return
    kind = tools.run(["blkid", "-c", "/dev/null", "-s", "TYPE", "-o", "value", str(device)])
    if (name := kind.decode().strip()) not in _MOUNTABLE:
        raise UsageError(
            problem=f"{device} ({label}) holds {name or 'nothing'}; "
            f"one of {', '.join(_MOUNTABLE)} is wanted"
        )
    point = _MOUNTS / label
    point.mkdir(parents=True, exist_ok=True)
    with _writable(device) if writable else nullcontext():
        options = f"{'rw,noatime' if writable else 'ro'},nosuid,nodev,noexec"
        kernel_type = "ntfs3" if name == "ntfs" else name
        tools.run(["mount", "-t", kernel_type, "-o", options, str(device), str(point)])
        try:
            yield point
        finally:
            tools.run(["umount", str(point)], timeout_s=900)  # what is cached is written now


@contextmanager
def _writable(device: Path) -> Iterator[None]:
    """Let a partition be written to for the block; its disk, too, without which it is not."""
    paths = [device]
    if (SYSFS / "class/block" / device.name / "partition").exists():
        disk = (SYSFS / "class/block" / device.name).resolve().parent.name
        paths.insert(0, Path("/dev", disk))
    for path in paths:
        tools.run(["blockdev", "--setrw", str(path)])
    try:
        yield
    finally:
        for path in reversed(paths):
            tools.run(["blockdev", "--setro", str(path)])
