/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Bitmaps of granules in user memory: bit n is bit n % 8 of byte n / 8. */
#ifndef P2V_TRACKER_MARKS_H
#define P2V_TRACKER_MARKS_H

#include <stddef.h>
#include <stdint.h>

struct run {
	size_t first;
	size_t count;
};

/* Move the marks of `words` shared words, 64 bits or 8 bytes each, into `bits`, and clear them. */
void marks_take(uint64_t *shared, size_t words, int bytes, uint8_t *bits);

/* Set in `bits` those of `count` marks from `first` on that are set; they stay. */
void marks_peek(const uint64_t *shared, size_t first, size_t count, int bytes, uint8_t *bits);

/* Set `count` bits from `first` on. */
void bits_set(uint8_t *bits, size_t first, size_t count);

/* Set in `into` what is set in `bits`, both `length` bytes. */
void bits_or(uint8_t *into, const uint8_t *bits, size_t length);

/* How many bits of `length` bytes are set. */
size_t bits_count(const uint8_t *bits, size_t length);

/* Find up to `room` runs of set bits in [start, end); the last one may go on. Returns how many. */
size_t bits_runs(const uint8_t *bits, size_t start, size_t end, struct run *runs, size_t room);

#endif
