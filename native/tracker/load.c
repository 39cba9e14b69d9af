/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "load.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "marks.h"

#define PROGRAMS (2 * COPIES)

struct tracker {
	struct bpf_object *object;
	struct bpf_link *links[PROGRAMS];
	struct bpf_program *programs[PROGRAMS];
	uint64_t *marks;
	size_t mapped;
	size_t count;
	int bytes;
	uint64_t *keys;
	struct disk *disks;
};

static __thread char said[16384];

const char *tracker_log(void)
{
	return said;
}

static int keep(enum libbpf_print_level level, const char *format, va_list arguments)
{
	size_t used = strlen(said);

	if (level != LIBBPF_WARN)
		return 0;
	return vsnprintf(said + used, sizeof(said) - used, format, arguments);
}

void tracker_capture_log(void)
{
	libbpf_set_print(keep);
}

int tracker_has_atomic_or(void)
{
	const struct bpf_insn program[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
		{.code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = 10, .src_reg = 0, .off = -8},
		{.code = BPF_STX | BPF_DW | BPF_XADD, .dst_reg = 10, .src_reg = 0, .off = -8, .imm = BPF_OR},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int fd = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "p2v_probe", "GPL", program,
			       sizeof(program) / sizeof(*program), NULL);

	if (fd < 0)
		return 0;
	close(fd);
	return 1;
}

/* Which argument of the tracepoint is the request: the type of its callback tells, whose first
 * parameter is private. */
static int request_argument(unsigned int *argument)
{
	const struct btf_type *type;
	struct btf *btf = btf__load_vmlinux_btf();
	int id, error = 0;

	if (!btf)
		return -errno;
	id = btf__find_by_name_kind(btf, "btf_trace_block_rq_issue", BTF_KIND_TYPEDEF);
	type = id < 0 ? NULL : btf__type_by_id(btf, (unsigned int)id);
	type = type ? btf__type_by_id(btf, type->type) : NULL;
	type = type && btf_is_ptr(type) ? btf__type_by_id(btf, type->type) : NULL;
	if (type && btf_is_func_proto(type) && (btf_vlen(type) == 2 || btf_vlen(type) == 3))
		*argument = btf_vlen(type) - 2u;
	else
		error = -ENOENT;
	btf__free(btf);
	return error;
}

static size_t lines_of(const struct tracker *tracker, size_t index)
{
	return (size_t)((tracker->disks[index].granules + GRANULES_A_LINE - 1) / GRANULES_A_LINE);
}

static size_t line_length(const struct tracker *tracker)
{
	return tracker->bytes ? LINE_BYTES : LINE_BITS;
}

static int configure(struct tracker *tracker, size_t lines)
{
	struct bpf_map *marks = bpf_object__find_map_by_name(tracker->object, "marks");
	struct bpf_map *constants = bpf_object__find_map_by_name(tracker->object, ".rodata");
	struct config config = {0};
	int error = request_argument(&config.request_argument);

	if (error)
		return error;
	for (size_t i = 0; i < tracker->count; i++)
		if (tracker->keys[i] & NVME_KEY(0, 0))
			config.nvme_paths = 1;
	if (!constants)
		return -EINVAL;
	error = bpf_map__set_initial_value(constants, &config, sizeof(config));
	if (error)
		return error;
	error = bpf_map__set_value_size(marks, (unsigned int)line_length(tracker));
	error = error ? error : bpf_map__set_max_entries(marks, (unsigned int)lines);
	if (error)
		return error;
	return bpf_map__set_max_entries(bpf_object__find_map_by_name(tracker->object, "disks"),
					(unsigned int)tracker->count);
}

/* Completions first: whatever is issued to a marked hook is then also seen to complete. */
static int choose_programs(struct tracker *tracker)
{
	for (int i = 0; i < PROGRAMS; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s_%s%d", i < COPIES ? "complete" : "issue",
			 tracker->bytes ? "bytes" : "bits", i % COPIES);
		tracker->programs[i] = bpf_object__find_program_by_name(tracker->object, name);
		if (!tracker->programs[i])
			return -EINVAL;
		bpf_program__set_autoload(tracker->programs[i], true);
	}
	return 0;
}

static int fill_disks(struct tracker *tracker)
{
	int fd = bpf_object__find_map_fd_by_name(tracker->object, "disks");

	for (size_t i = 0; i < tracker->count; i++)
		if (bpf_map_update_elem(fd, &tracker->keys[i], &tracker->disks[i], BPF_NOEXIST))
			return -errno;
	return 0;
}

static int map_marks(struct tracker *tracker, size_t lines)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t length = (lines * line_length(tracker) + page - 1) / page * page;
	void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED,
			     bpf_object__find_map_fd_by_name(tracker->object, "marks"), 0);

	if (address == MAP_FAILED)
		return -errno;
	tracker->marks = address;
	tracker->mapped = length;
	return 0;
}

static int attach(struct tracker *tracker)
{
	for (int i = 0; i < PROGRAMS; i++) {
		tracker->links[i] = bpf_program__attach(tracker->programs[i]);
		if (!tracker->links[i])
			return -errno;
	}
	return 0;
}

size_t tracker_bits_length(const struct tracker *tracker, size_t index)
{
	return lines_of(tracker, index) * GRANULES_A_LINE / 8;
}

static int start(struct tracker *tracker, const void *object, size_t length)
{
	size_t lines = 0;
	int error;

	for (size_t i = 0; i < tracker->count; i++) {
		tracker->disks[i].base = lines;
		lines += lines_of(tracker, i);
	}
	if (lines > UINT32_MAX)
		return -E2BIG;
	tracker->object = bpf_object__open_mem(object, length, NULL);
	if (!tracker->object)
		return -errno;
	error = configure(tracker, lines);
	error = error ? error : choose_programs(tracker);
	error = error ? error : bpf_object__load(tracker->object);
	error = error ? error : fill_disks(tracker);
	error = error ? error : map_marks(tracker, lines);
	return error ? error : attach(tracker);
}

int tracker_load(struct tracker **out, const void *object, size_t length, const uint64_t *keys,
		 const struct disk *disks, size_t count, int bytes)
{
	struct tracker *tracker = calloc(1, sizeof(*tracker));
	int error = -ENOMEM;

	said[0] = 0;
	if (!tracker)
		return error;
	tracker->count = count;
	tracker->bytes = bytes;
	tracker->keys = calloc(count, sizeof(*keys));
	tracker->disks = calloc(count, sizeof(*disks));
	if (tracker->keys && tracker->disks) {
		memcpy(tracker->keys, keys, count * sizeof(*keys));
		memcpy(tracker->disks, disks, count * sizeof(*disks));
		error = start(tracker, object, length);
	}
	if (error)
		tracker_close(tracker);
	else
		*out = tracker;
	return error;
}

void tracker_close(struct tracker *tracker)
{
	if (!tracker)
		return;
	for (int i = 0; i < PROGRAMS; i++)
		bpf_link__destroy(tracker->links[i]);
	if (tracker->marks)
		munmap(tracker->marks, tracker->mapped);
	bpf_object__close(tracker->object);
	free(tracker->keys);
	free(tracker->disks);
	free(tracker);
}

void tracker_take(struct tracker *tracker, size_t index, uint8_t *bits)
{
	const size_t words = line_length(tracker) / sizeof(uint64_t);

	marks_take(tracker->marks + tracker->disks[index].base * words,
		   lines_of(tracker, index) * words, tracker->bytes, bits);
}

void tracker_peek(const struct tracker *tracker, size_t index, size_t first, size_t count,
		  uint8_t *bits)
{
	const size_t words = line_length(tracker) / sizeof(uint64_t);

	marks_peek(tracker->marks + tracker->disks[index].base * words, first, count,
		   tracker->bytes, bits);
}

int tracker_counts(const struct tracker *tracker, size_t index, struct disk *disk)
{
	int fd = bpf_object__find_map_fd_by_name(tracker->object, "disks");

	return bpf_map_lookup_elem(fd, &tracker->keys[index], disk) ? -errno : 0;
}

int tracker_lost(const struct tracker *tracker, uint64_t *most)
{
	uint64_t least[2] = {UINT64_MAX, UINT64_MAX};

	for (int i = 0; i < PROGRAMS; i++) {
		struct bpf_prog_info info = {0};
		unsigned int length = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf_program__fd(tracker->programs[i]), &info, &length))
			return -errno;
		if (info.recursion_misses < least[i / COPIES])
			least[i / COPIES] = info.recursion_misses;
	}
	*most = least[0] + least[1];
	return 0;
}
