// SPDX-License-Identifier: Apache-2.0 OR MIT
/* What makes the kernel take pages away for a while, or move them. Contents stay: any page, any time. */
#include "chaos.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif

int step_cold(uint64_t *random)
{
	struct piece range = mutate_anywhere(random, 4 << 20);

	return mutate_result(M_COLD, madvise(range.at, range.length, MADV_COLD));
}

int step_pageout(uint64_t *random)
{
	struct piece range = mutate_anywhere(random, 1 << 20);

	return mutate_result(M_PAGEOUT, madvise(range.at, range.length, MADV_PAGEOUT));
}

int step_compact(uint64_t *random)
{
	int file = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC), result = -1;

	(void)random;
	if (file >= 0) {
		result = write(file, "1", 1) == 1 ? 0 : -1;
		close(file);
	}
	return mutate_result(M_COMPACT, result);
}
