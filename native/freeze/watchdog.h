/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A process that thaws file systems when whoever froze them cannot. -errno on failure. */
#ifndef P2V_FREEZE_WATCHDOG_H
#define P2V_FREEZE_WATCHDOG_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WATCHDOG_MAX_FILE_SYSTEMS 256

struct watchdog;

/*
 * Start a watchdog over `count` open directories, one a file system. When this process ends in
 * whatever way, or `limit_ms` after watchdog_begin(), it thaws those that were noted, last noted
 * first. In the former case it then runs those of `commands` (the paths of programs, ended by NULL)
 * that were begun with the word "thaw", in their order. Returns once it is ready: locked in memory
 * and deaf to signals.
 */
int watchdog_start(struct watchdog **out, const int *fds, size_t count, uint64_t limit_ms,
		   char *const *commands);

/* The first freeze begins: the limit counts from now. */
void watchdog_begin(struct watchdog *dog);

/* File system `index` is about to be frozen, or after all was not by us. */
void watchdog_note(struct watchdog *dog, size_t index, int frozen);

/*
 * The last `begun` of the commands were begun, and may have to be thawed. The process group
 * `running` is the latest of them, still at work, and is ended first; 0 if none is.
 */
void watchdog_command(struct watchdog *dog, size_t begun, pid_t running);

/* Whether the limit has passed: 1 or 0. It is set before the first thaw. */
int watchdog_expired(const struct watchdog *dog);

/* Its process id. */
int watchdog_pid(const struct watchdog *dog);

/*
 * End it and release everything. With `done` all was thawed; without, it thaws what is noted first.
 */
void watchdog_end(struct watchdog *dog, int done);

#endif
