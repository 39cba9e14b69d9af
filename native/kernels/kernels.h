/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The kernels: pure work on memory, no Python, no allocation, no state after kernels_init().
 * Pointers may be unaligned; a pointer is not followed where its length is 0.
 */
#ifndef P2V_KERNELS_H
#define P2V_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A half-open range; bytes or pages, as the function says. */
typedef struct {
    size_t start;
    size_t length;
} span;

/* Builds the tables of CRC-32C and looks at the CPU; called once, when the module is loaded. */
void crc32c_init(void);

/* CRC-32C (Castagnoli; RFC 3720 section 12.1) of `length` bytes, continuing from `value`. */
uint32_t crc32c(uint32_t value, const uint8_t *data, size_t length);

/* The same without the CPU's instruction. */
uint32_t crc32c_portable(uint32_t value, const uint8_t *data, size_t length);

/* True when all bytes are zero. */
bool is_zero(const uint8_t *data, size_t length);

/*
 * Fills `spans` with the next byte ranges, in whole granules and merged, that are not all zero.
 * Scans from `*cursor`, moves it behind what was scanned, and returns the number of spans (at most
 * `room`); `*cursor == length` says that nothing is left.
 */
size_t data_spans(const uint8_t *data, size_t length, size_t granule, size_t *cursor, span *spans,
                  size_t room);

/* The same for the pages that differ between two buffers; spans and cursor count pages. */
size_t changed_spans(const uint8_t *old, const uint8_t *new, size_t length, size_t page,
                     size_t *cursor, span *spans, size_t room);

/* Gathers byte ranges of `data` one after the other into `payload`. */
void gather(uint8_t *payload, const uint8_t *data, const span *spans, size_t count);

/* The reverse: scatters `payload` over the ranges of `data`. */
void scatter(uint8_t *data, const uint8_t *payload, const span *spans, size_t count);

enum { LZF_CORRUPT = -1, LZF_OVERRUN = -2 };

/* Bytes written to `out`, or 0 when they would be more than `room` (or when `length` is 0). */
size_t lzf_compress(const uint8_t *data, size_t length, uint8_t *out, size_t room);

/* Bytes written to `out` (what lies behind them, up to `room`, may be overwritten too), or
 * LZF_CORRUPT, or LZF_OVERRUN when they would be more than `room`. */
ptrdiff_t lzf_decompress(const uint8_t *data, size_t length, uint8_t *out, size_t room);

#endif
