// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Marks the granules of disks that are written to, from within the block layer. Not under version
 * 3 of the licence alone like the rest of p2v, as it runs inside a kernel under version 2.
 *
 * A write is marked twice: when it is issued to the driver, before any of it can reach the medium,
 * and when it completes, before whoever wrote learns of it. docs/tracker.md says what follows.
 *
 * Only the fields used are declared; libbpf moves the accesses to where the running kernel has
 * them (CO-RE).
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"
#include "nvme.h"

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef _Bool bool;
enum { false, true };

#define RELOCATED __attribute__((preserve_access_index))

struct gendisk {
	int major;
	int first_minor;
	char disk_name[NAME_LENGTH];
} RELOCATED;

struct request_queue {
	struct gendisk *disk; /* since Linux 5.15 */
} RELOCATED;

struct bvec_iter {
	u64 bi_sector;
	u32 bi_size;
} RELOCATED;

struct bio {
	struct bio *bi_next;
	struct bvec_iter bi_iter;
} RELOCATED;

struct request {
	struct request_queue *q;
	u32 cmd_flags;
	u32 __data_len;
	u64 __sector;
	struct bio *bio;
} RELOCATED;

struct request___until_5_16 {
	struct gendisk *rq_disk;
} RELOCATED;

/*
 * include/linux/blk_types.h. These have kept their numbers since Linux 4.11; the others have not,
 * and all of them change data.
 */
enum {
	OP_MASK = 0xff,
	OP_READ = 0,
	OP_WRITE = 1,
	OP_FLUSH = 2,
	OP_DISCARD = 3,
	OP_SCSI_IN = 32, /* until Linux 5.15 */
	OP_SCSI_OUT = 33,
	OP_DRV_IN = 34,
	OP_DRV_OUT = 35,
};

enum hook { ISSUE, COMPLETE, HOOKS };

/* More than can be at work at once on a CPU. */
#define RECENT 4

/* The most ranges that a driver takes in one discard (NVMe, virtio). */
#define MAX_RANGES 256

/* The longest request is just under 4 GiB: its length has 32 bits. */
#define MAX_LINES ((1 << (32 - MIN_GRANULE_SHIFT)) / GRANULES_A_LINE + 1)

const volatile struct config config = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, LINE_BITS); /* or LINE_BYTES; the loader says */
} marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, u64);
	__type(value, struct disk);
} disks SEC(".maps");

/* The requests that a copy of a hook's program has dealt with, and the others have not seen yet. */
struct recent {
	u64 requests[RECENT];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOKS);
	__type(key, u32);
	__type(value, struct recent);
} recent SEC(".maps");

static __always_inline struct gendisk *disk_of(struct request *request)
{
	struct request___until_5_16 *older = (void *)request;

	if (bpf_core_field_exists(request->q->disk))
		return request->q->disk;
	return older->rq_disk;
}

static __always_inline struct disk *find(struct request *request)
{
	struct gendisk *gendisk = disk_of(request);
	struct disk *found;
	char name[NAME_LENGTH];
	u64 key;

	if (!gendisk)
		return 0;
	key = DEVICE_KEY(gendisk->major, gendisk->first_minor);
	found = bpf_map_lookup_elem(&disks, &key);
	if (found || !config.nvme_paths)
		return found;
	if (bpf_probe_read_kernel(name, sizeof(name), gendisk->disk_name))
		return 0;
	key = nvme_path_key(name);
	return key ? bpf_map_lookup_elem(&disks, &key) : 0;
}

/* Mark granules `low` to `high` of a line, a bit each. What is marked already is not marked again:
 * the memory stays shared between the CPUs. */
static __noinline int set_bits(u32 index, u32 low, u32 high)
{
	u64 mask = ~0ULL << (low & 63) & ~0ULL >> (63 - (high & 63));
	u64 *line = bpf_map_lookup_elem(&marks, &index);

	if (line && (*(volatile u64 *)line & mask) != mask)
		__sync_fetch_and_or(line, mask);
	return 0;
}

/* The same, a byte each. */
static __noinline int set_bytes(u32 index, u32 low, u32 high)
{
	volatile u8 *line = bpf_map_lookup_elem(&marks, &index);

	if (!line)
		return 0;
	for (u32 i = low; i < GRANULES_A_LINE && i <= high; i++)
		if (!line[i])
			line[i] = 1;
	return 0;
}

static __always_inline int set(u32 index, u32 low, u32 high, const bool bits)
{
	return bits ? set_bits(index, low, high) : set_bytes(index, low, high);
}

static __always_inline void fill(u32 index, const bool bits)
{
	u64 *line = bpf_map_lookup_elem(&marks, &index);

	if (!line)
		return;
#pragma unroll
	for (u32 i = 0; i < (bits ? 1 : 8); i++)
		((volatile u64 *)line)[i] = ~0ULL;
}

/* Mark `length` bytes from `sector` on; returns 1 when they go beyond the disk's granules. */
static __always_inline int mark(u32 base, u64 granules, u64 shift, u64 sector, u64 length,
				const bool bits)
{
	u64 end = sector + ((length + (1 << SECTOR_SHIFT) - 1) >> SECTOR_SHIFT);
	u64 first = sector >> (shift & 63), last = (end - 1) >> (shift & 63);
	u32 line = base + first / GRANULES_A_LINE, low = first % GRANULES_A_LINE, lines;
	int beyond = last >= granules;

	if (!length)
		return 0;
	if (first >= granules)
		return 1;
	if (beyond)
		last = granules - 1;
	lines = last / GRANULES_A_LINE - first / GRANULES_A_LINE;
	if (lines) {
		set(line, low, GRANULES_A_LINE - 1, bits);
		for (u32 i = 1; i < MAX_LINES && i < lines; i++)
			fill(line + i, bits);
		low = 0;
	}
	set(line + lines, low, last % GRANULES_A_LINE, bits);
	return beyond;
}

/* Not static: the verifier then checks each once, not with every call. */
__noinline int mark_bits(u32 base, u64 granules, u64 shift, u64 sector, u64 length)
{
	return mark(base, granules, shift, sector, length, true);
}

__noinline int mark_bytes(u32 base, u64 granules, u64 shift, u64 sector, u64 length)
{
	return mark(base, granules, shift, sector, length, false);
}

static __always_inline int mark_range(const struct disk *disk, u64 sector, u32 length,
				      const bool bits)
{
	if (bits)
		return mark_bits(disk->base, disk->granules, disk->shift, sector, length);
	return mark_bytes(disk->base, disk->granules, disk->shift, sector, length);
}

/* A discard may be of several ranges that are not neighbours, one a bio. */
static __always_inline int mark_discard(struct disk *disk, struct bio *bio, const bool bits)
{
	int beyond = 0;

	for (u32 i = 0; bio && i < MAX_RANGES; i++) {
		beyond |= mark_range(disk, bio->bi_iter.bi_sector, bio->bi_iter.bi_size, bits);
		bio = bio->bi_next;
	}
	if (bio)
		__sync_fetch_and_add(&disk->unplaced, 1);
	return beyond;
}

/* Mark what `request` changes; of its bytes `completed` are to be counted. */
static __always_inline int note(struct request *request, u32 completed, const bool bits)
{
	u32 op = request->cmd_flags & OP_MASK, length = request->__data_len;
	struct disk *disk;
	int beyond = 0;

	if (op == OP_READ || op == OP_FLUSH || op == OP_DRV_IN || op == OP_SCSI_IN)
		return 0;
	if (op == OP_WRITE && !length) /* only flushes a cache */
		return 0;
	disk = find(request);
	if (!disk)
		return 0;
	if (op == OP_DRV_OUT || op == OP_SCSI_OUT) {
		__sync_fetch_and_add(&disk->passthrough, 1);
		return 0;
	}
	if (!length)
		__sync_fetch_and_add(&disk->unplaced, 1);
	else if (op == OP_DISCARD && request->bio)
		beyond = mark_discard(disk, request->bio, bits);
	else
		beyond = mark_range(disk, request->__sector, length, bits);
	if (beyond)
		__sync_fetch_and_add(&disk->beyond, 1);
	if (completed)
		__sync_fetch_and_add(&disk->completed, completed >> SECTOR_SHIFT);
	return 0;
}

/* Functions of their own, as the programs below are many. */
static __noinline int note_bits(struct request *request, u32 completed)
{
	return note(request, completed, true);
}

static __noinline int note_bytes(struct request *request, u32 completed)
{
	return note(request, completed, false);
}

/*
 * Since Linux 6.1 a program is skipped while it is at work on the same CPU (__bpf_trace_run in
 * kernel/trace/bpf_trace.c): a completion in an interrupt, while another is being marked outside
 * of it, would be lost. So every hook has COPIES programs, of which the first that is not skipped
 * deals with the event. One that interrupts n others is skipped by at most n copies, as each of
 * the others is within one; and as tasks, soft and hard interrupts are all that can nest here, n
 * is at most 2. The kernel counts what each copy skips: no more than the least of these is lost.
 */
static __always_inline int once(void *request, u32 completed, u32 hook, const u32 copy,
				const bool bits)
{
	struct recent *done = bpf_map_lookup_elem(&recent, &hook);
	bool found = false;

	if (!done)
		return 0;
	if (copy > 0) {
#pragma unroll
		for (u32 i = 0; i < RECENT; i++) {
			if (done->requests[i] == (u64)request) {
				found = true;
				if (copy == COPIES - 1)
					done->requests[i] = 0;
			}
		}
		if (found)
			return 0;
	}
	if (copy < COPIES - 1) {
#pragma unroll
		for (u32 i = RECENT - 1; i > 0; i--)
			done->requests[i] = done->requests[i - 1];
		done->requests[0] = (u64)request;
	}
	return bits ? note_bits(request, completed) : note_bytes(request, completed);
}

#define PROGRAMS(copy)                                                            \
	SEC("?tp_btf/block_rq_issue")                                             \
	int issue_bits##copy(u64 *arguments)                                      \
	{                                                                         \
		if (config.request_argument)                                      \
			return once((void *)arguments[1], 0, ISSUE, copy, true);  \
		return once((void *)arguments[0], 0, ISSUE, copy, true);          \
	}                                                                         \
	SEC("?tp_btf/block_rq_issue")                                             \
	int issue_bytes##copy(u64 *arguments)                                     \
	{                                                                         \
		if (config.request_argument)                                      \
			return once((void *)arguments[1], 0, ISSUE, copy, false); \
		return once((void *)arguments[0], 0, ISSUE, copy, false);         \
	}                                                                         \
	SEC("?tp_btf/block_rq_complete")                                          \
	int complete_bits##copy(u64 *arguments)                                   \
	{                                                                         \
		return once((void *)arguments[0], arguments[2], COMPLETE, copy, true);  \
	}                                                                         \
	SEC("?tp_btf/block_rq_complete")                                          \
	int complete_bytes##copy(u64 *arguments)                                  \
	{                                                                         \
		return once((void *)arguments[0], arguments[2], COMPLETE, copy, false); \
	}

PROGRAMS(0)
PROGRAMS(1)
PROGRAMS(2)
_Static_assert(COPIES == 3, "as many PROGRAMS as COPIES");

char LICENSE[] SEC("license") = "GPL";
