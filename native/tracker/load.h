/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Loads tracker.bpf.o through libbpf and maps its marks. All functions return -errno on failure. */
#ifndef P2V_TRACKER_LOAD_H
#define P2V_TRACKER_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include "layout.h"

struct tracker;

/* What libbpf and the verifier said last, for errors. Of this thread; never NULL. */
const char *tracker_log(void);

/* Send libbpf's messages to tracker_log() instead of stderr. */
void tracker_capture_log(void);

/* Whether the kernel's programs know an atomic OR (Linux 5.12): 1 or 0. */
int tracker_has_atomic_or(void);

/*
 * Load the programs of `object` and start marking what is written to `count` disks.
 *
 * Of each disk the caller gives `granules` and `shift`. `keys` are as layout.h makes them; with
 * `bytes` a granule takes a byte instead of a bit.
 */
int tracker_load(struct tracker **out, const void *object, size_t length, const uint64_t *keys,
		 const struct disk *disks, size_t count, int bytes);

/* Detach and release; NULL is fine. */
void tracker_close(struct tracker *tracker);

/* Move the marks of a disk into `bits`, which holds whole words of 64 bits. */
void tracker_take(struct tracker *tracker, size_t index, uint8_t *bits);

/* Set in `bits` those of `count` granules from `first` on that are marked; the marks stay. */
void tracker_peek(const struct tracker *tracker, size_t index, size_t first, size_t count,
		  uint8_t *bits);

/* Bytes that `bits` must have for a disk. */
size_t tracker_bits_length(const struct tracker *tracker, size_t index);

/* Fill `disk` with its counters. */
int tracker_counts(const struct tracker *tracker, size_t index, struct disk *disk);

/* Fill the most events that the kernel may have kept from all copies of a program. */
int tracker_lost(const struct tracker *tracker, uint64_t *most);

#endif
