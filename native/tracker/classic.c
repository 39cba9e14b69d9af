/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "classic.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/membarrier.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "marks.h"

int classic_map(const char *name, uint32_t value_length, uint32_t entries)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, name, sizeof(uint32_t), value_length, entries, NULL);

	return fd < 0 ? -errno : fd;
}

int classic_program(const char *name, const void *instructions, size_t length)
{
	int fd = bpf_prog_load(BPF_PROG_TYPE_TRACEPOINT, name, "GPL", instructions,
			       length / sizeof(struct bpf_insn), NULL);

	return fd < 0 ? -errno : fd;
}

int classic_attach(int program, uint64_t id, int cpu)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(event),
		.config = id,
	};
	int error, fd = (int)syscall(SYS_perf_event_open, &event, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (!ioctl(fd, PERF_EVENT_IOC_SET_BPF, program) && !ioctl(fd, PERF_EVENT_IOC_ENABLE, 0))
		return fd;
	error = -errno;
	close(fd);
	return error;
}

int classic_skipped(int program, uint64_t *skipped)
{
	struct bpf_prog_info info = {0};
	unsigned int length = sizeof(info);

	if (bpf_obj_get_info_by_fd(program, &info, &length))
		return -errno;
	*skipped = info.recursion_misses;
	return 0;
}

/* Programs run inside RCU read sections, and this waits for those of all CPUs. */
int classic_settle(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) ? -errno : 0;
}

int classic_take(int map, uint64_t first, uint64_t granules, unsigned int shift,
		 uint8_t generation, uint8_t *bits)
{
	const uint64_t units = (granules + (1ULL << shift) - 1) >> shift;
	uint8_t page[PAGE_BYTES];

	for (uint64_t unit = 0; unit < units;) {
		uint64_t at = first + unit;
		uint32_t key = (uint32_t)(at / PAGE_BYTES);
		const uint8_t *found;
		uint64_t here = PAGE_BYTES - at % PAGE_BYTES;

		if (here > units - unit)
			here = units - unit;
		if (bpf_map_lookup_elem(map, &key, page))
			return -errno;
		found = page + at % PAGE_BYTES;
		for (uint64_t skip = 0; skip < here; skip++) {
			const uint8_t *next = memchr(found + skip, generation, here - skip);
			uint64_t granule, count = 1ULL << shift;

			if (!next)
				break;
			skip = (uint64_t)(next - found);
			granule = (unit + skip) << shift;
			if (count > granules - granule)
				count = granules - granule;
			bits_set(bits, granule, count);
		}
		unit += here;
	}
	return 0;
}
