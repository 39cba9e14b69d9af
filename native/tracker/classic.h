/* SPDX-License-Identifier: GPL-3.0-or-later */
/* System calls for programs on classic tracepoints. All functions return -errno on failure. */
#ifndef P2V_TRACKER_CLASSIC_H
#define P2V_TRACKER_CLASSIC_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096 /* one value of the map of marks: a byte a unit */

/* Make an array map; returns its descriptor. */
int classic_map(const char *name, uint32_t value_length, uint32_t entries);

/* Load a program for a tracepoint from its instructions, 8 bytes each; returns its descriptor. */
int classic_program(const char *name, const void *instructions, size_t length);

/* Run a program whenever the tracepoint with this id is hit, until the returned descriptor is
 * closed. `cpu` must be online; hits on any CPU count. */
int classic_attach(int program, uint64_t id, int cpu);

/* How often the kernel says it skipped a program; kernels before 6.7 say 0. */
int classic_skipped(int program, uint64_t *skipped);

/* Wait until every program that is running now has ended. */
int classic_settle(void);

/*
 * Set the bits of the granules whose units hold `generation`.
 *
 * Unit n of the disk is byte `first` + n of the map and stands for the granules from n << `shift`
 * on; `granules` bounds them.
 */
int classic_take(int map, uint64_t first, uint64_t granules, unsigned int shift,
		 uint8_t generation, uint8_t *bits);

#endif
