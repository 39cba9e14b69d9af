/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The watchdog is a fork that calls nothing but the kernel: no allocation, no locks, no files. What
 * it needs is in memory before a file system is frozen, and stays there.
 */
#define _GNU_SOURCE
#include "watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

#define TICK_MS 50
#define READY_MS 10000
#define COMMAND_MS 60000
#define MAX_FD 65536

/* What the two processes share. `order` is 0 while a file system is not frozen by us. */
struct shared {
	_Atomic uint64_t deadline_ms;
	atomic_int expired;
	atomic_int done;
	_Atomic uint32_t order[WATCHDOG_MAX_FILE_SYSTEMS];
	_Atomic size_t begun; /* of the commands, from the last */
	_Atomic pid_t running;
};

struct watchdog {
	struct shared *shared;
	uint64_t limit_ms;
	uint32_t next;
	pid_t pid;
	int alive; /* the end of a pipe that closes when this process ends */
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void thaw(struct shared *shared, const int *fds, size_t count)
{
	uint32_t below = UINT32_MAX;

	for (;;) {
		uint32_t latest = 0;
		size_t found = 0;

		for (size_t i = 0; i < count; i++) {
			uint32_t order = atomic_load(&shared->order[i]);

			if (order > latest && order < below) {
				latest = order;
				found = i;
			}
		}
		if (latest == 0)
			return;
		ioctl(fds[found], FITHAW, 0); /* EINVAL: not frozen, or not yet */
		below = latest;
	}
}

static void run(char *path)
{
	char word[] = "thaw";
	char *const argv[] = {path, word, NULL};
	uint64_t deadline = now_ms() + COMMAND_MS;
	pid_t child = fork();

	if (child == 0) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setpgid(0, 0);
		execv(path, argv);
		_exit(127);
	}
	while (child > 0 && waitpid(child, NULL, WNOHANG) == 0) {
		if (now_ms() > deadline) {
			kill(-child, SIGKILL);
			waitpid(child, NULL, 0);
			return;
		}
		poll(NULL, 0, TICK_MS);
	}
}

/* Undo the freezes that were begun: one that still runs must not come after its thaw. */
static void run_all(struct shared *shared, char *const *commands)
{
	size_t count = 0, begun = atomic_load(&shared->begun);
	pid_t running = atomic_load(&shared->running);

	if (running > 1)
		kill(-running, SIGKILL);
	while (commands[count])
		count++;
	for (size_t i = begun < count ? count - begun : 0; i < count; i++)
		run(commands[i]);
}

static int needed(int fd, const int *fds, size_t count, int alive, int ready)
{
	if (fd == alive || fd == ready)
		return 1;
	for (size_t i = 0; i < count; i++)
		if (fds[i] == fd)
			return 1;
	return 0;
}

/* Leave the other process alone: its terminal, sockets, signals, and the killer of large ones. */
static void part(const int *fds, size_t count, int alive, int ready)
{
	struct rlimit files;
	sigset_t all;
	int adjust, last = MAX_FD;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	setsid();
	prctl(PR_SET_NAME, "p2v-thaw");
	setpriority(PRIO_PROCESS, 0, -20);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < MAX_FD)
		last = (int)files.rlim_cur;
	for (int fd = 0; fd < last; fd++)
		if (!needed(fd, fds, count, alive, ready))
			close(fd);
	adjust = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (adjust >= 0) {
		ssize_t written = write(adjust, "-1000", 5);

		(void)written; /* without the right to it, it is as safe as any other process */
		close(adjust);
	}
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) /* Linux 4.4 */
		mlockall(MCL_CURRENT | MCL_FUTURE);
}

static void watch(struct shared *shared, const int *fds, size_t count, int alive, int ready,
		  char *const *commands)
{
	struct pollfd other = {.fd = alive, .events = 0};

	part(fds, count, alive, ready);
	thaw(shared, fds, count); /* nothing yet: brings the code into memory */
	if (write(ready, "r", 1) != 1)
		_exit(1);
	close(ready);
	for (;;) {
		uint64_t deadline;

		poll(&other, 1, TICK_MS);
		if (other.revents & (POLLHUP | POLLERR))
			break;
		deadline = atomic_load(&shared->deadline_ms);
		if (deadline && now_ms() >= deadline) {
			atomic_store(&shared->expired, 1);
			thaw(shared, fds, count);
		}
	}
	if (atomic_load(&shared->done))
		_exit(0);
	thaw(shared, fds, count);
	run_all(shared, commands);
	_exit(0);
}

static int wait_ready(int ready)
{
	struct pollfd other = {.fd = ready, .events = POLLIN};
	char byte;

	return poll(&other, 1, READY_MS) == 1 && read(ready, &byte, 1) == 1 ? 0 : -ECHILD;
}

int watchdog_start(struct watchdog **out, const int *fds, size_t count, uint64_t limit_ms,
		   char *const *commands)
{
	struct watchdog *dog = calloc(1, sizeof(*dog));
	int alive[2], ready[2], result;

	if (!dog)
		return -ENOMEM;
	dog->limit_ms = limit_ms;
	dog->shared = mmap(NULL, sizeof(*dog->shared), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (dog->shared == MAP_FAILED) {
		free(dog);
		return -ENOMEM;
	}
	if (pipe2(alive, O_CLOEXEC) != 0)
		goto no_alive;
	if (pipe2(ready, O_CLOEXEC) != 0)
		goto no_ready;
	dog->pid = fork();
	if (dog->pid == 0) {
		close(alive[1]);
		close(ready[0]);
		watch(dog->shared, fds, count, alive[0], ready[1], commands);
	}
	if (dog->pid < 0)
		goto no_child;
	close(alive[0]);
	close(ready[1]);
	dog->alive = alive[1];
	result = wait_ready(ready[0]);
	close(ready[0]);
	if (result < 0) {
		watchdog_end(dog, 1);
		return result;
	}
	*out = dog;
	return 0;

no_child:
	close(ready[0]);
	close(ready[1]);
no_ready:
	close(alive[0]);
	close(alive[1]);
no_alive:
	result = -errno;
	munmap(dog->shared, sizeof(*dog->shared));
	free(dog);
	return result;
}

void watchdog_begin(struct watchdog *dog)
{
	atomic_store(&dog->shared->deadline_ms, now_ms() + dog->limit_ms);
}

void watchdog_note(struct watchdog *dog, size_t index, int frozen)
{
	atomic_store(&dog->shared->order[index], frozen ? ++dog->next : 0);
}

void watchdog_command(struct watchdog *dog, size_t begun, pid_t running)
{
	atomic_store(&dog->shared->begun, begun);
	atomic_store(&dog->shared->running, running);
}

int watchdog_expired(const struct watchdog *dog)
{
	return atomic_load(&dog->shared->expired);
}

int watchdog_pid(const struct watchdog *dog)
{
	return dog->pid;
}

void watchdog_end(struct watchdog *dog, int done)
{
	atomic_store(&dog->shared->done, done);
	close(dog->alive);
	while (waitpid(dog->pid, NULL, 0) < 0 && errno == EINTR)
		;
	munmap(dog->shared, sizeof(*dog->shared));
	free(dog);
}
