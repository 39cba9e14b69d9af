# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT12, FAT16, FAT32 and exFAT: boot sector, FAT entry 1, FSInfo.

Sources: Microsoft Extensible Firmware Initiative FAT32 File System Specification 1.03;
https://learn.microsoft.com/windows/win32/fileio/exfat-specification
"""

from __future__ import annotations

import struct

from agent.inventory.volume.window import State, VolumeDamagedError, Window

_EXFAT_DIRTY = 0x2
_BOOT_DIRTY = 0x1  # of the byte that Windows keeps for itself; Linux sets it while mounted
_FAT16_CLUSTERS = 4085
_UNCLEAN = "it was not unmounted cleanly"
_FSINFO = (0x41615252, 0x61417272)


def read(window: Window) -> State:
    """Return used space (FAT32, where FSInfo has it) and cleanliness of a FAT volume.

    Raises:
        VolumeDamagedError: the boot sector makes no sense.
    """
    boot = window.read(0, 512)
    sector, per_cluster, reserved, fats, roots, small, _, short_fat = struct.unpack_from(
        "<HBHBHHBH", boot, 11
    )
    large, long_fat = struct.unpack_from("<II", boot, 32)
    total, fat = small or large, short_fat or long_fat
    if sector not in (512, 1024, 2048, 4096) or not per_cluster or not reserved or not fats:
        raise VolumeDamagedError(problem="the FAT boot sector makes no sense")
    data = total - reserved - fats * fat - -(-roots * 32 // sector)
    clusters = data // per_cluster
    if clusters <= 0:
        raise VolumeDamagedError(problem="the FAT boot sector leaves no room for files")
    first = window.read(reserved * sector, 8)
    # Not by the count of clusters, as the specification has it: small FAT32 volumes are common as
    # EFI system partitions, and Linux and Windows go by the field too.
    if not short_fat:
        dirty = boot[0x41] & _BOOT_DIRTY or not struct.unpack("<II", first)[1] & 0x08000000
        (info,) = struct.unpack_from("<H", boot, 48)
        used = _used(window, info * sector, clusters, per_cluster * sector)
        return State(used=used, unclean=_UNCLEAN if dirty else "")
    dirty = boot[0x25] & _BOOT_DIRTY
    if clusters >= _FAT16_CLUSTERS:
        dirty = dirty or not struct.unpack_from("<HH", first)[1] & 0x8000
    return State(unclean=_UNCLEAN if dirty else "")


def _used(window: Window, at: int, clusters: int, cluster: int) -> int | None:
    """FSInfo's count is advice: it is absent, or out of range, on many real volumes."""
    info = window.read(at, 512)
    signatures = struct.unpack_from("<I", info)[0], struct.unpack_from("<I", info, 484)[0]
    (free,) = struct.unpack_from("<I", info, 488)
    if signatures != _FSINFO or free > clusters:
        return None
    return int(clusters - free) * cluster


def read_exfat(window: Window) -> State:
    """Return used space and cleanliness of an exFAT volume.

    Raises:
        VolumeDamagedError: there is no exFAT boot sector.
    """
    boot = window.read(0, 512)
    if boot[3:11] != b"EXFAT   ":
        raise VolumeDamagedError(problem="no exFAT boot sector")
    (flags,) = struct.unpack_from("<H", boot, 106)
    (clusters,) = struct.unpack_from("<I", boot, 92)
    sector_shift, cluster_shift, percent = boot[108], boot[109], boot[112]
    if sector_shift not in range(9, 13) or sector_shift + cluster_shift > 25:
        raise VolumeDamagedError(problem="the exFAT boot sector makes no sense")
    size = clusters << (sector_shift + cluster_shift)
    used = size * percent // 100 if percent <= 100 else None
    return State(used=used, unclean=_UNCLEAN if flags & _EXFAT_DIRTY else "")
