# SPDX-License-Identifier: GPL-3.0-or-later
r"""The loader that UEFI starts where it knows nothing of the disk: `\EFI\BOOT\BOOTX64.EFI`.

Which loader a firmware starts is kept in its own memory, and a new VM's is empty.
UEFI specification 2.10, 3.5.1.1 "Removable media boot behavior"
"""

from __future__ import annotations

from collections.abc import Iterator

from p2v.guest.edit import Area, CopyFile, Edit
from p2v.guest.windows.facts import WindowsFacts

MANAGER = "/EFI/Microsoft/Boot/bootmgfw.efi"
FALLBACKS = {"x86_64": "/EFI/BOOT/BOOTX64.EFI", "i386": "/EFI/BOOT/BOOTIA32.EFI"}


def plan(windows: WindowsFacts, architecture: str) -> Iterator[Edit]:
    """Yield the copy of Windows' boot manager to where a VM's firmware looks for it."""
    partition = windows.system_partition
    if partition and partition.manager and not partition.fallback:
        yield Edit(
            area=Area.BOOT,
            what=f"add {FALLBACKS[architecture]}",
            reason="the VM's firmware does not know Windows' own loader",
            action=CopyFile(MANAGER, FALLBACKS[architecture], partition.device),
        )
