# SPDX-License-Identifier: GPL-3.0-or-later
"""A swap's header made anew: the contents stay behind, UUID and label go along.

fstab and resume= name a swap by its UUID, so that the virtual machine finds it as it was. Layout:
union swap_header of linux/swap.h; hibernation signatures as libblkid knows them
(util-linux, libblkid/src/superblocks/swap.c).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from p2v.model.errors import P2VError
from p2v.model.units import KiB

_PAGE_SIZES = (4 * KiB, 8 * KiB, 16 * KiB, 32 * KiB, 64 * KiB)
HEADER_MAX = _PAGE_SIZES[-1]
"""Bytes from a swap's start that are enough for its header on every architecture."""

_MAGIC = b"SWAPSPACE2"
_SUSPENDED = (
    b"S1SUSPEND\0",
    b"S2SUSPEND\0",
    b"ULSUSPEND\0",
    b"LINHIB0001",
    b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c",  # TuxOnIce
)
_INFO = struct.Struct("<III16s16s")  # version, last page, bad pages, UUID, label; at byte 1024
_INFO_AT = 1024
_VERSION = 1


class SwapHeaderError(P2VError):
    """The first page is no swap header that can be made anew."""

    code = "bad-swap-header"
    message = "The swap header cannot be made anew: {problem}."


@dataclass(frozen=True, slots=True)
class SwapInfo:
    """What a swap's first page says. `pages` counts the header's own; `page_size` is in bytes."""

    page_size: int
    pages: int
    uuid: str
    label: str
    suspended: bool


def swap_info(first: bytes) -> SwapInfo:
    """Return what the swap that begins with `first` (up to `HEADER_MAX` bytes) says of itself.

    Raises:
        SwapHeaderError: no signature, or another version or byte order.
    """
    page_size, suspended = _signature(first)
    version, last_page, _, uuid, label = _INFO.unpack_from(first, _INFO_AT)
    if version != _VERSION:
        raise SwapHeaderError(problem=f"version {version}, only {_VERSION} is known")
    return SwapInfo(
        page_size=page_size,
        pages=last_page + 1,
        uuid=str(UUID(bytes=uuid)),
        label=label.split(b"\0")[0].decode(errors="replace"),
        suspended=suspended,
    )


def _signature(first: bytes) -> tuple[int, bool]:
    for size in _PAGE_SIZES:
        magic = first[size - 10 : size]
        if len(magic) < 10:
            break
        if magic == _MAGIC:
            return size, False
        if magic.startswith(_SUSPENDED):
            return size, True
    raise SwapHeaderError(problem="there is no signature of a swap")


def swap_header(first_page: bytes) -> bytes:
    """Return a fresh header page for the swap that begins with `first_page`.

    Page size, size, UUID and label stay; a hibernation image is forgotten, bad pages too (they
    were those of the old disk). `first_page` may be longer than the page.

    Raises:
        SwapHeaderError: see `swap_info`.
    """
    info = swap_info(first_page)
    _, last_page, _, uuid, label = _INFO.unpack_from(first_page, _INFO_AT)
    page = bytearray(info.page_size)
    _INFO.pack_into(page, _INFO_AT, _VERSION, last_page, 0, uuid, label)
    page[-len(_MAGIC) :] = _MAGIC
    return bytes(page)
