# SPDX-License-Identifier: GPL-3.0-or-later
"""What inspection found in a guest: all that the pure planner may know.

Devices are named as the appliance names them: its disks are /dev/sda, /dev/sdb, ... in the order in
which the images were given, whatever the guest calls them. All that comes out of a guest is hostile
and bounded: a text is cut, and says so, rather than fill the converter's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from p2v.guest.linux.facts import LinuxFacts
from p2v.guest.windows.facts import WindowsFacts
from p2v.model.machine import FirmwareKind


class Family(StrEnum):
    """The kind of system; also the package of `p2v.guest` that knows it."""

    LINUX = "linux"
    WINDOWS = "windows"


@dataclass(frozen=True, slots=True)
class System:
    """An operating system in the image.

    Attributes:
        family: its kind.
        root: device of its root file system, or of its C: drive.
        name: as it calls itself: `Debian GNU/Linux 12 (bookworm)`.
        distribution: libguestfs's word for it: `debian`, `rhel`, `windows`.
        major, minor: version; 0 where there is none. Windows: the kernel's (6.1, 10.0).
        architecture: `x86_64`, `i386`, `aarch64`.
        hostname: "" if it has none.
    """

    family: Family
    root: str
    name: str
    distribution: str
    major: int
    minor: int
    architecture: str
    hostname: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the guest; `size` in bytes, `table` is gpt, msdos or ""."""

    device: str
    size: int
    table: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A partition or logical volume and what it holds.

    Attributes:
        device: the appliance's name for it.
        kind: blkid's TYPE (`ext4`, `swap`, `crypto_LUKS`, `LVM2_member`), "" for nothing known.
        uuid, label: of the content, as `UUID=` and `LABEL=` mean them.
        partuuid, partlabel: of the partition's entry, "" for other volumes.
        parttype: the type GUID of a GPT partition in lower case, "" otherwise.
        size: bytes.
        mount_point: where the guest mounts it; "" for nowhere.
        free: bytes left in a mounted file system, -1 where that isn't known.
        free_inodes: the same for inodes; -1 also where there is no such limit.
    """

    device: str
    kind: str = ""
    uuid: str = ""
    label: str = ""
    partuuid: str = ""
    partlabel: str = ""
    parttype: str = ""
    size: int = 0
    mount_point: str = ""
    free: int = -1
    free_inodes: int = -1


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """A guest, as it was found. Exactly one of `linux` and `windows` is set.

    Attributes:
        system: the system that will be converted.
        firmware: what it boots with.
        disks: in the order in which the images were given.
        volumes: of all disks, logical ones too.
        others: the names of further systems on these disks; they are left as they are.
    """

    system: System
    firmware: FirmwareKind
    disks: tuple[Disk, ...] = ()
    volumes: tuple[Volume, ...] = ()
    others: tuple[str, ...] = ()
    linux: LinuxFacts | None = None
    windows: WindowsFacts | None = None

    def mounted(self, path: str) -> Volume | None:
        """Return the volume that holds `path`, None if nothing is mounted above it."""
        above = [
            volume
            for volume in self.volumes
            if volume.mount_point
            and f"{path.rstrip('/')}/".startswith(f"{volume.mount_point.rstrip('/')}/")
        ]
        return max(above, key=lambda volume: len(volume.mount_point), default=None)
