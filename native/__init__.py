# SPDX-License-Identifier: GPL-3.0-or-later
"""The native core: pure work on buffers, the GIL released.

Every function takes any contiguous buffer (bytes, bytearray, memoryview, mmap), refuses one that
is not contiguous with `BufferError`, and one longer than its limit with `ValueError`. Signatures
and limits are in `_core.pyi`; `native.reference` says the same in plain Python.
"""

from native._core import (
    MAX_LENGTH,
    MAX_LZF_LENGTH,
    MIN_PAGE,
    apply_pages,
    changed_pages,
    crc32c,
    is_zero,
    lzf_compress,
    lzf_compress_into,
    lzf_decompress,
    lzf_decompress_into,
    pack_pages,
    zero_runs,
)

__all__ = [
    "MAX_LENGTH",
    "MAX_LZF_LENGTH",
    "MIN_PAGE",
    "apply_pages",
    "changed_pages",
    "crc32c",
    "is_zero",
    "lzf_compress",
    "lzf_compress_into",
    "lzf_decompress",
    "lzf_decompress_into",
    "pack_pages",
    "zero_runs",
]
