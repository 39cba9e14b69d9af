/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the program in the kernel and its loader share. GPL-2.0-or-later: see tracker.bpf.c. */
#ifndef P2V_TRACKER_LAYOUT_H
#define P2V_TRACKER_LAYOUT_H

#define COPIES 3          /* programs a hook; tracker.bpf.c says why there are several */
#define SECTOR_SHIFT 9    /* the kernel counts in sectors of 512 bytes, whatever the disk has */
#define MIN_GRANULE_SHIFT 16
#define NAME_LENGTH 32    /* DISK_NAME_LEN in linux/blkdev.h */

/* An entry of the map of marks: a bit a granule, or a byte where the kernel has no atomic OR. */
#define GRANULES_A_LINE 64
#define LINE_BITS 8
#define LINE_BYTES 64

/* A key of the map of disks: a device number, or what names a path to an NVMe namespace. */
#define DEVICE_KEY(major, minor) ((unsigned long long)(major) << 32 | (unsigned)(minor))
#define NVME_KEY(subsystem, head) \
	(1ULL << 63 | (unsigned long long)(subsystem) << 32 | (unsigned)(head))

/* A disk, as the map of disks holds it. The counters only ever grow. */
struct disk {
	unsigned long long base;        /* index of its first line in the map of marks */
	unsigned long long granules;
	unsigned long long shift;       /* from sectors to granules */
	unsigned long long completed;   /* sectors whose writing or discarding has ended */
	unsigned long long passthrough; /* commands with data to the device, place unknown */
	unsigned long long unplaced;    /* operations that change data and name no range */
	unsigned long long beyond;      /* ranges that leave the disk as it was when tracking began */
};

/* Constants of one load; read-only for the programs, so that the verifier drops dead branches. */
struct config {
	unsigned int request_argument; /* of block_rq_issue: 1 before Linux 5.11, then 0 */
	unsigned int nvme_paths;       /* whether a disk may be reached through hidden path devices */
};

#endif
