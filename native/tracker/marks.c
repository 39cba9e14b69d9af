/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "marks.h"

#include <string.h>

void marks_take(uint64_t *shared, size_t words, int bytes, uint8_t *bits)
{
	const size_t step = bytes ? 1 : 8;

	for (size_t i = 0; i < words; i++, bits += step) {
		uint64_t taken;

		if (!__atomic_load_n(&shared[i], __ATOMIC_RELAXED))
			continue;
		/* A mark set by now is taken, a later one stays; none falls between. */
		taken = __atomic_exchange_n(&shared[i], 0, __ATOMIC_SEQ_CST);
		if (bytes) {
			for (int j = 0; j < 8; j++)
				if (taken >> 8 * j & 0xff)
					*bits |= (uint8_t)(1 << j);
		} else {
			uint64_t kept;

			memcpy(&kept, bits, sizeof(kept));
			kept |= taken;
			memcpy(bits, &kept, sizeof(kept));
		}
	}
}

void marks_peek(const uint64_t *shared, size_t first, size_t count, int bytes, uint8_t *bits)
{
	const size_t marks = bytes ? sizeof(*shared) : 64; /* a word, each of 64 / marks bits */

	for (size_t i = 0; i < count; i++) {
		size_t at = first + i;
		uint64_t word = __atomic_load_n(&shared[at / marks], __ATOMIC_ACQUIRE);
		uint64_t mark = bytes ? 0xffULL << 8 * (at % marks) : 1ULL << at % marks;

		if (word & mark)
			bits[i >> 3] |= (uint8_t)(1 << (i & 7));
	}
}

void bits_set(uint8_t *bits, size_t first, size_t count)
{
	size_t end = first + count;

	while (first < end && first & 7) {
		bits[first >> 3] |= (uint8_t)(1 << (first & 7));
		first++;
	}
	memset(bits + (first >> 3), 0xff, (end - first) >> 3);
	first += (end - first) & ~(size_t)7;
	while (first < end) {
		bits[first >> 3] |= (uint8_t)(1 << (first & 7));
		first++;
	}
}

void bits_or(uint8_t *into, const uint8_t *bits, size_t length)
{
	for (size_t i = 0; i < length; i++)
		into[i] |= bits[i];
}

size_t bits_count(const uint8_t *bits, size_t length)
{
	size_t count = 0;

	while (length >= sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, bits, sizeof(word));
		count += (size_t)__builtin_popcountll(word);
		bits += sizeof(word);
		length -= sizeof(word);
	}
	while (length--)
		count += (size_t)__builtin_popcount(*bits++);
	return count;
}

/* The first position in [start, end) whose bit is `wanted`, else `end`. */
static size_t find(const uint8_t *bits, size_t start, size_t end, int wanted)
{
	const uint64_t flip = wanted ? 0 : ~0ULL;

	while (start < end) {
		size_t left = end - start;

		if (!(start & 7) && left >= 64) {
			uint64_t word;

			memcpy(&word, bits + (start >> 3), sizeof(word));
			word ^= flip;
			if (word)
				return start + (size_t)__builtin_ctzll(word);
			start += 64;
			continue;
		}
		if ((bits[start >> 3] >> (start & 7) & 1) == wanted)
			return start;
		start++;
	}
	return end;
}

size_t bits_runs(const uint8_t *bits, size_t start, size_t end, struct run *runs, size_t room)
{
	size_t found = 0;

	while (found < room) {
		size_t first = find(bits, start, end, 1);

		if (first == end)
			break;
		start = find(bits, first, end, 0);
		runs[found++] = (struct run){first, start - first};
	}
	return found;
}
