# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: an immutable, replayable document of what a migration will do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from p2v.model.vm import VmSettings

PLAN_VERSION = 1


class ImageFormat(StrEnum):
    """Format of the images that a migration writes."""

    VHDX = "vhdx"
    QCOW2 = "qcow2"
    RAW = "raw"


class Codec(StrEnum):
    """How chunks are compressed on the wire; `AUTO` is chosen by measurement as the stream runs."""

    AUTO = "auto"
    ZSTD = "zstd"
    LZF = "lzf"
    NONE = "none"


class Capture(StrEnum):
    """How a disk is captured while it is written to; `AUTO` takes the first that there is."""

    AUTO = "auto"
    TRACKER = "tracker"
    """The kernel marks what is written; all disks are captured at one instant."""
    LVM = "lvm"
    """Snapshots of logical volumes, each at its own instant."""
    SCAN = "scan"
    """Comparisons, which prepare an image that is finished when nobody writes any more."""


class Treatment(StrEnum):
    """What happens to a range of a disk."""

    COPY = "copy"
    """Every block is copied."""
    USED = "used"
    """Blocks that the file system calls free are zeros in the image."""
    SWAP = "swap"
    """Contents are not copied; the header is made anew with the same UUID and label."""
    EXCLUDE = "exclude"
    """Contents are not copied; the partition exists and reads as zeros."""


@dataclass(frozen=True, slots=True)
class PlannedPartition:
    """A partition (or, with number 0, the file system of an unpartitioned disk) and its treatment.

    `start` and `size` are bytes; `reason` says in words why it is treated so.
    """

    number: int
    name: str
    start: int
    size: int
    content: str
    treatment: Treatment
    reason: str = ""
    uuid: str = ""
    label: str = ""
    mount_point: str = ""


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """A disk to capture. `path` is the block device or image file; sizes are bytes."""

    name: str
    path: str
    size: int
    logical_sector: int = 512
    physical_sector: int = 4096
    model: str = ""
    serial: str = ""
    table: str = "none"
    partitions: tuple[PlannedPartition, ...] = ()
    used: int = 0
    """Bytes that its image is expected to hold, 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration does, complete enough to run it unattended."""

    name: str
    disks: tuple[PlannedDisk, ...]
    format: ImageFormat = ImageFormat.VHDX
    live: bool = False
    capture: Capture = Capture.AUTO
    """How, if it is `live`."""
    all_blocks: bool = False
    codec: Codec = Codec.AUTO
    bwlimit: int = 0
    """Bytes a second on the wire, 0 for no limit."""
    compress_image: bool = False
    """qcow2 only: keep the wire's zstd frames as compressed clusters."""
    convert: bool = True
    warnings: tuple[str, ...] = ()
    vm: VmSettings | None = None
    """The virtual machine to be made of the images; None for images only."""
    version: int = PLAN_VERSION
