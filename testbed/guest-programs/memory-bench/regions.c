// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * regions ... COUNT PAGES: fork, munmap and mprotect of a process whose PAGES pages are registered
 * in COUNT regions of a page each.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

int measure_regions(const char *name, int gid_index, int times, char **arguments)
{
	uint64_t regions = strtoull(arguments[0], NULL, 10);
	uint64_t length = strtoull(arguments[1], NULL, 10) * PAGE;
	uint8_t *at = memory_map(length, true);
	struct device device = device_open(name, gid_index);

	for (uint64_t i = 0; i < regions; i++) {
		uint64_t start = now();

		if (!device_register(&device, at + i * PAGE % length, PAGE)) {
			none("regions/fork", strerror(errno));
			return 0;
		}
		if (i % 100 == 0)
			sample("regions/register", now() - start);
	}
	for (int i = 0; i < times; i++) {
		uint8_t *other = memory_map(PAGE, true);
		uint64_t start = now();
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (!child)
			_Exit(0);
		sample("regions/fork", now() - start);
		if (waitpid(child, NULL, 0) != child)
			fail("waitpid");
		/* Writable again, after what the fork has shared. */
		memory_touch(at, length);

		start = now();
		if (mprotect(at, PAGE, PROT_READ))
			fail("mprotect");
		sample("regions/protect", now() - start);
		if (mprotect(at, PAGE, PROT_READ | PROT_WRITE))
			fail("mprotect");
		memory_touch(at, PAGE);

		start = now();
		if (munmap(other, PAGE))
			fail("munmap");
		sample("regions/unmap", now() - start);
	}
	return 0;
}
