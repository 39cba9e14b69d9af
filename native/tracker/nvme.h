/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names of the hidden devices under an NVMe multipath disk. */
#ifndef P2V_TRACKER_NVME_H
#define P2V_TRACKER_NVME_H

#include "layout.h"

/*
 * Return the key of the disk that the device `name` is a path of, or 0 when it is no such device.
 *
 * A path nvme<subsystem>c<controller>n<head> belongs to the disk nvme<subsystem>n<head>
 * (nvme_alloc_ns in drivers/nvme/host/core.c). Going by name catches paths that appear later.
 */
static inline __attribute__((always_inline)) unsigned long long nvme_path_key(const char *name)
{
	enum { SUBSYSTEM, CONTROLLER, HEAD } part = SUBSYSTEM;
	unsigned int number[3] = {0, 0, 0}, digits = 0;

	if (name[0] != 'n' || name[1] != 'v' || name[2] != 'm' || name[3] != 'e')
		return 0;
#pragma GCC unroll 32
	for (int i = 4; i < NAME_LENGTH; i++) {
		char c = name[i];

		if (c >= '0' && c <= '9') {
			unsigned int digit = c - '0';

			if (part == SUBSYSTEM)
				number[0] = number[0] * 10 + digit;
			else if (part == HEAD)
				number[2] = number[2] * 10 + digit;
			digits++;
			continue;
		}
		if (!digits)
			return 0;
		digits = 0;
		if (c == 'c' && part == SUBSYSTEM)
			part = CONTROLLER;
		else if (c == 'n' && part == CONTROLLER)
			part = HEAD;
		else if (!c && part == HEAD)
			return NVME_KEY(number[0], number[2]);
		else
			return 0;
	}
	return 0;
}

#endif
