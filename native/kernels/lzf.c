/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * LZF, the format of liblzf. A token begins with a control byte:
 *
 *   000LLLLL                        L + 1 literal bytes follow (1..32)
 *   LLLooooo oooooooo               copy L + 2 bytes (L is 1..6) from o + 1 bytes back
 *   111ooooo LLLLLLLL oooooooo      the same with L + 9 bytes
 *
 * The compressor is greedy with one candidate a hash. Its table keeps the low 16 bits of a
 * position only, so that it stays in the first-level cache: every candidate is compared anyway,
 * and one that is wrong by 64 KiB is just another candidate. Where nothing matches it takes
 * longer steps, so that what can't be compressed costs little.
 */
#include "kernels.h"

#include <string.h>

enum {
    LITERALS = 32,      /* of one token, at most */
    DISTANCE = 8192,    /* of a match, at most */
    MATCH = 264,        /* bytes of one match token, at most */
    MATCH_MIN = 3,      /* a match token takes 2 bytes, so less gains nothing */
    MATCH_SHORT = 8,    /* bytes of a match token without length byte, at most */
    SEQUENCE = 4,       /* bytes that are hashed and must be the same */
    TABLE_BITS = 14,
    PATIENCE = 32,      /* misses after which the step grows by one */
    STEP = 64,          /* at most */
};

typedef struct {
    uint8_t *at;
    uint8_t *end;
} sink;

static inline uint32_t load(const uint8_t *data)
{
    return data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
}

static inline uint32_t slot(uint32_t sequence)
{
    return sequence * 2654435761u >> (32 - TABLE_BITS);
}

/* The index of the first byte, in memory, that differs between two words whose XOR this is. */
static inline size_t first_difference(uint64_t difference)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (size_t)__builtin_ctzll(difference) / 8;
#else
    return (size_t)__builtin_clzll(difference) / 8;
#endif
}

/* How many bytes two places have in common; `later` may be read up to `end`. */
static inline size_t common(const uint8_t *earlier, const uint8_t *later, const uint8_t *end)
{
    const uint8_t *start = later;
    while (end - later >= 8) {
        uint64_t a, b;
        memcpy(&a, earlier, sizeof a);
        memcpy(&b, later, sizeof b);
        if (a != b)
            return (size_t)(later - start) + first_difference(a ^ b);
        earlier += 8;
        later += 8;
    }
    while (later < end && *earlier == *later) {
        earlier++;
        later++;
    }
    return (size_t)(later - start);
}

/* Copies `count` (at most LITERALS) bytes; a fixed size, where both sides have room, is faster. */
static inline void copy_literals(uint8_t *to, size_t to_room, const uint8_t *from,
                                 size_t from_room, size_t count)
{
    if (to_room >= LITERALS && from_room >= LITERALS)
        memcpy(to, from, LITERALS);
    else
        memcpy(to, from, count);
}

/* Writes `length` bytes as literals; `left`, not less, may be read. */
static inline bool put_literals(sink *out, const uint8_t *data, size_t length, size_t left)
{
    if (length + (length + LITERALS - 1) / LITERALS > (size_t)(out->end - out->at))
        return false;
    while (length > 0) {
        size_t count = length < LITERALS ? length : LITERALS;
        *out->at++ = (uint8_t)(count - 1);
        copy_literals(out->at, (size_t)(out->end - out->at), data, left, count);
        out->at += count;
        data += count;
        length -= count;
        left -= count;
    }
    return true;
}

static inline bool put_match(sink *out, size_t distance, size_t length)
{
    size_t offset = distance - 1;
    size_t extra = length > MATCH_SHORT;
    size_t control = extra ? 7 : length - 2;
    size_t room = (size_t)(out->end - out->at);
    if (room < 2 + extra)
        return false;
    out->at[0] = (uint8_t)(control << 5 | offset >> 8);
    out->at[1] = (uint8_t)(length - 9); /* stays when there is one; no branch on it */
    out->at[1 + extra] = (uint8_t)offset;
    out->at += 2 + extra;
    return true;
}

size_t lzf_compress(const uint8_t *data, size_t length, uint8_t *out, size_t room)
{
    uint16_t table[1 << TABLE_BITS] = {0};
    sink sink = {out, out + room};
    size_t done = 0; /* before it all is in `out`; from it to `at` are literals */
    size_t at = 0;
    size_t misses = 0;
    size_t stop = length < SEQUENCE ? 0 : length - SEQUENCE + 1; /* no sequence begins there */

    while (at < stop) {
        uint32_t sequence = load(data + at);
        uint16_t *entry = &table[slot(sequence)];
        size_t distance = (uint16_t)(at - *entry);
        *entry = (uint16_t)at;
        if (distance == 0 || distance > DISTANCE || distance > at ||
            load(data + at - distance) != sequence) {
            size_t step = 1 + misses++ / PATIENCE;
            at += step < STEP ? step : STEP;
            continue;
        }
        while (at > done && at > distance && data[at - 1] == data[at - 1 - distance])
            at--;
        size_t left = common(data + at - distance, data + at, data + length);
        if (!put_literals(&sink, data + done, at - done, length - done))
            return 0;
        while (left >= MATCH_MIN) {
            size_t count = left < MATCH ? left : MATCH;
            if (!put_match(&sink, distance, count))
                return 0;
            at += count;
            left -= count;
        }
        done = at;
        misses = 0;
        if (at >= stop)
            break;
        table[slot(load(data + at - 2))] = (uint16_t)(at - 2);
        table[slot(load(data + at - 1))] = (uint16_t)(at - 1);
    }
    if (!put_literals(&sink, data + done, length - done, length - done))
        return 0;
    return (size_t)(sink.at - out);
}

/* Copies a match, which may overlap what it makes. `slack`: bytes that may be written from `to`. */
static inline void copy_match(uint8_t *to, size_t distance, size_t length, size_t slack)
{
    const uint8_t *from = to - distance;
    if (distance >= 16 && slack >= length + 15) {
        for (size_t i = 0; i < length; i += 16)
            memcpy(to + i, from + i, 16);
    } else if (distance == 1) {
        memset(to, *from, length);
    } else {
        /* The pattern doubles with every copy. */
        while (length > distance) {
            memcpy(to, from, distance);
            to += distance;
            length -= distance;
            distance *= 2;
        }
        memcpy(to, from, length);
    }
}

ptrdiff_t lzf_decompress(const uint8_t *data, size_t length, uint8_t *out, size_t room)
{
    const uint8_t *end = data + length;
    size_t at = 0;

    while (data < end) {
        size_t control = *data++;
        if (control < LITERALS) {
            size_t count = control + 1;
            if (count > (size_t)(end - data))
                return LZF_CORRUPT;
            if (count > room - at)
                return LZF_OVERRUN;
            copy_literals(out + at, room - at, data, (size_t)(end - data), count);
            data += count;
            at += count;
            continue;
        }
        size_t count = (control >> 5) + 2;
        if (count == 9) {
            if (data == end)
                return LZF_CORRUPT;
            count += *data++;
        }
        if (data == end)
            return LZF_CORRUPT;
        size_t distance = ((control & 31) << 8 | *data++) + 1;
        if (distance > at)
            return LZF_CORRUPT;
        if (count > room - at)
            return LZF_OVERRUN;
        copy_match(out + at, distance, count, room - at);
        at += count;
    }
    return (ptrdiff_t)at;
}
