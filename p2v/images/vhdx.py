# SPDX-License-Identifier: GPL-3.0-or-later
"""VHDX, the image format of Hyper-V: dynamic and fixed disks.

Specification: [MS-VHDX], https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx
"""

from p2v.images.c_vhdx import FILE_SIGNATURE
from p2v.images.vhdx_reader import VhdxReader
from p2v.images.vhdx_writer import VhdxWriter

__all__ = ["VhdxReader", "VhdxWriter", "detect"]


def detect(header: bytes) -> bool:
    """Tell whether a file whose first bytes are `header` is a VHDX file."""
    return header.startswith(FILE_SIGNATURE)
