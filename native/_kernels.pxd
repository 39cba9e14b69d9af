# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernels as Cython sees them; described in kernels/kernels.h."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint32_t

cdef extern from "kernels.h" nogil:
    ctypedef struct span:
        size_t start
        size_t length

    enum:
        LZF_CORRUPT

    void crc32c_init()
    uint32_t crc32c(uint32_t value, const uint8_t *data, size_t length)
    uint32_t crc32c_portable(uint32_t value, const uint8_t *data, size_t length)
    bint is_zero(const uint8_t *data, size_t length)
    size_t data_spans(const uint8_t *data, size_t length, size_t granule, size_t *cursor,
                      span *spans, size_t room)
    size_t changed_spans(const uint8_t *old, const uint8_t *new, size_t length, size_t page,
                         size_t *cursor, span *spans, size_t room)
    void gather(uint8_t *payload, const uint8_t *data, const span *spans, size_t count)
    void scatter(uint8_t *data, const uint8_t *payload, const span *spans, size_t count)
    size_t lzf_compress(const uint8_t *data, size_t length, uint8_t *out, size_t room)
    ptrdiff_t lzf_decompress(const uint8_t *data, size_t length, uint8_t *out, size_t room)
