# SPDX-License-Identifier: GPL-3.0-or-later
"""BIOS or UEFI, and Secure Boot."""

from __future__ import annotations

from pathlib import Path

from p2v.model.machine import Firmware, FirmwareKind

_SECURE_BOOT = "efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def read_firmware(sys: Path = Path("/sys")) -> Firmware:
    """Return what started the running system.

    The variable is four bytes of attributes and one of value (UEFI 2.10, 3.3 and 32.3).
    """
    efi = sys / "firmware/efi"
    if not efi.is_dir():
        return Firmware(FirmwareKind.BIOS)
    try:
        value = (efi / _SECURE_BOOT).read_bytes()
    except OSError:
        return Firmware(FirmwareKind.UEFI)
    return Firmware(FirmwareKind.UEFI, bool(value[4]) if len(value) == 5 else None)
