// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * invalidate ... none|idle|elsewhere|there GATE: what it costs to take pages away while no device is
 * open, while one is open and idle, while it works for another process, and while it reads those
 * very pages.
 *
 * Says "ready", waits until the file GATE exists, measures, says "measured", and waits until the
 * file is gone: so that somebody can look at the device before and after.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

#define MANY 1024ul

static const uint64_t pages[] = { 1, MANY };

static void key_of(char *key, size_t size, const char *what, uint64_t number)
{
	snprintf(key, size, "invalidate/%s/%llu", what, (unsigned long long)number);
}

static void discard(uint8_t *at, uint64_t number)
{
	char key[64];
	uint64_t start;

	key_of(key, sizeof(key), "dontneed", number);
	memory_touch(at, number * PAGE);
	start = now();
	if (madvise(at, number * PAGE, MADV_DONTNEED))
		fail("MADV_DONTNEED");
	sample(key, now() - start);
}

static void protect(uint8_t *at, uint64_t number)
{
	char key[64];
	uint64_t start;

	key_of(key, sizeof(key), "protect", number);
	memory_touch(at, number * PAGE);
	start = now();
	if (mprotect(at, number * PAGE, PROT_READ))
		fail("mprotect");
	sample(key, now() - start);
	if (mprotect(at, number * PAGE, PROT_READ | PROT_WRITE))
		fail("mprotect");
}

/* Of memory that is not registered: to unmap what is used is an error of the program. */
static void unmap(uint64_t number)
{
	uint8_t *at = memory_map(number * PAGE, true);
	char key[64];
	uint64_t start;

	key_of(key, sizeof(key), "unmap", number);
	start = now();
	if (munmap(at, number * PAGE))
		fail("munmap");
	sample(key, now() - start);
}

int measure_invalidate(const char *name, int gid_index, int times, char **arguments)
{
	const char *mode = arguments[0], *gate = arguments[1];
	bool there = !strcmp(mode, "there");
	uint64_t length = MANY * PAGE, before;
	uint8_t *at = memory_map(length, true);
	/* The thread that makes traffic uses it to the end. */
	static struct device device;
	struct ibv_mr *mr;

	if (!strcmp(mode, "elsewhere"))
		traffic_process(name, gid_index);
	if (strcmp(mode, "none")) {
		device = device_open(name, gid_index);
		mr = device_register(&device, at, length);
		if (!mr)
			fail("ibv_reg_mr");
		if (there) {
			device_connect(&device);
			/* It reads the pages: so they may be discarded and protected meanwhile. */
			traffic_start(&device, mr, (uint32_t)length);
		}
	}
	print("ready");
	while (access(gate, F_OK))
		nap(2);
	/* The device goes back to sleep after what it did until now. */
	nap(50);
	before = traffic_done();
	for (int i = 0; i < times; i++)
		for (size_t n = 0; n < sizeof(pages) / sizeof(*pages); n++) {
			discard(at, pages[n]);
			protect(at, pages[n]);
			if (!there)
				unmap(pages[n]);
		}
	if (there)
		count("invalidate/writes", traffic_done() - before);
	print("measured");
	while (!access(gate, F_OK))
		nap(2);
	return 0;
}
