# SPDX-License-Identifier: GPL-3.0-or-later
"""The native core's functions. All release the GIL while they work.

A buffer is anything contiguous: one that is not raises `BufferError`, one of more than
`MAX_LENGTH` bytes `ValueError`. As the GIL is released, nobody may write to a buffer while a call
works on it.

A page (or granule) is `MIN_PAGE` to `MAX_LENGTH` bytes, anything else raises `ValueError`. The
last page of a buffer may be shorter.
"""

from collections.abc import Iterable
from typing import Final

from typing_extensions import Buffer

MAX_LENGTH: Final[int]
"""The longest buffer, in bytes."""
MAX_LZF_LENGTH: Final[int]
"""The most bytes that are compressed in one call, or decompressed into a new object."""
MIN_PAGE: Final[int]
"""The smallest page or granule, in bytes."""

def is_zero(buffer: Buffer) -> bool:
    """Return whether all bytes are zero; True for an empty buffer."""

def zero_runs(buffer: Buffer, granule: int) -> list[tuple[int, int]]:
    """Find the data among zeros: (offset, length) of the runs of granules that are not all zero.

    Offset and length are bytes; neighbours are merged, so the gaps are the runs of zeros.
    """

def changed_pages(old: Buffer, new: Buffer, page: int = 4096) -> list[tuple[int, int]]:
    """Find the pages that differ: (first page, count of pages), ascending and merged.

    Raises:
        ValueError: the buffers differ in length.
    """

def pack_pages(new: Buffer, runs: Iterable[tuple[int, int]], page: int = 4096) -> bytes:
    """Return the pages of `runs` one after the other; `runs` as `changed_pages` gives them.

    Raises:
        ValueError: the runs do not ascend, overlap, are empty, or leave the buffer.
    """

def apply_pages(
    target: Buffer, runs: Iterable[tuple[int, int]], payload: Buffer, page: int = 4096
) -> None:
    """Write `payload`, as `pack_pages` made it, over the pages of `runs` in `target`.

    Raises:
        ValueError: as `pack_pages`, or the payload is not as long as the runs; nothing is written.
        BufferError: `target` is read-only.
    """

def lzf_compress(buffer: Buffer) -> bytes | None:
    """Return the bytes in liblzf's format, or None when that is not smaller.

    Raises:
        ValueError: more than `MAX_LZF_LENGTH` bytes.
    """

def lzf_compress_into(buffer: Buffer, out: Buffer) -> int:
    """Compress into `out` and return the bytes written; 0 when it does not fit.

    At most a 32nd, rounded up, is added to what cannot be compressed. What lies behind the bytes
    written is undefined, as is all of `out` when it did not fit.

    Raises:
        ValueError: more than `MAX_LZF_LENGTH` bytes, or the two share memory.
        BufferError: `out` is read-only.
    """

def lzf_decompress(buffer: Buffer, length: int) -> bytes:
    """Return the `length` bytes that `buffer` holds; hostile input is safe and allocates no more.

    Raises:
        ValueError: the data is corrupt, holds more or less than `length` bytes, or `length` is
            more than `MAX_LZF_LENGTH` or than the format could ever make of the input.
    """

def lzf_decompress_into(buffer: Buffer, out: Buffer) -> int:
    """Decompress into `out` and return the bytes written; what lies behind them is undefined.

    Raises:
        ValueError: the data is corrupt, does not fit, or the two share memory.
        BufferError: `out` is read-only.
    """

def crc32c(buffer: Buffer, value: int = 0) -> int:
    """Return the CRC-32C (RFC 3720 section 12.1), continuing from the `value` of earlier bytes.

    Raises:
        OverflowError: `value` is no unsigned 32-bit number.
    """

def crc32c_portable(buffer: Buffer, value: int = 0) -> int:
    """Return the same without the CPU's instruction; what `crc32c` does where there is none."""
