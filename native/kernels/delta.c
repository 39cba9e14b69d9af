/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What differs between two buffers, page by page. */
#include "kernels.h"

#include <string.h>

size_t changed_spans(const uint8_t *old, const uint8_t *new, size_t length, size_t page,
                     size_t *cursor, span *spans, size_t room)
{
    size_t pages = length / page + (length % page != 0);
    size_t count = 0;
    size_t at = *cursor;
    bool open = false;
    for (; at < pages; at++) {
        size_t offset = at * page;
        size_t step = length - offset < page ? length - offset : page;
        if (memcmp(old + offset, new + offset, step) == 0) {
            open = false;
        } else if (open) {
            spans[count - 1].length++;
        } else {
            if (count == room)
                break;
            spans[count++] = (span){at, 1};
            open = true;
        }
    }
    *cursor = at;
    return count;
}

/* memmove, as a caller may pass views of one buffer. */
void gather(uint8_t *payload, const uint8_t *data, const span *spans, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        memmove(payload, data + spans[i].start, spans[i].length);
        payload += spans[i].length;
    }
}

void scatter(uint8_t *data, const uint8_t *payload, const span *spans, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        memmove(data + spans[i].start, payload, spans[i].length);
        payload += spans[i].length;
    }
}
