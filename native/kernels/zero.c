/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Finding zeros. The loops are written for the compiler to vectorise. */
#include "kernels.h"

#include <string.h>

/* Words are ORed a block at a time: long enough to be bound by memory, short enough that data,
 * which is seldom zero in its first bytes, costs one branch. */
enum { BLOCK = 256 };

static inline bool block_is_zero(const uint8_t *data)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < BLOCK; i += sizeof seen) {
        uint64_t word;
        memcpy(&word, data + i, sizeof word);
        seen |= word;
    }
    return seen == 0;
}

bool is_zero(const uint8_t *data, size_t length)
{
    size_t i = 0;
    for (; length - i >= BLOCK; i += BLOCK)
        if (!block_is_zero(data + i))
            return false;
    uint8_t seen = 0;
    for (; i < length; i++)
        seen |= data[i];
    return seen == 0;
}

size_t data_spans(const uint8_t *data, size_t length, size_t granule, size_t *cursor, span *spans,
                  size_t room)
{
    size_t count = 0;
    size_t at = *cursor;
    bool open = false;
    while (at < length) {
        size_t step = length - at < granule ? length - at : granule;
        if (is_zero(data + at, step)) {
            open = false;
        } else if (open) {
            spans[count - 1].length += step;
        } else {
            if (count == room)
                break;
            spans[count++] = (span){at, step};
            open = true;
        }
        at += step;
    }
    *cursor = at;
    return count;
}
