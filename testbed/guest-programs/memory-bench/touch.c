// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * touch ... pinned|paged SWAP GROUP: a WRITE of 8 bytes to a page that the device has used before, that
 * is there, that was never there, and that is swapped out. SWAP names the swap device, or is "-".
 * The program has to be in a control group of its own, the folder of which is in GROUP.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* Apart, so that what the kernel reads ahead is not what is touched next. */
#define STEP (16 * PAGE)

static struct device device;
static struct ibv_mr *source, *target;

static uint64_t write_once(uint64_t offset)
{
	uint64_t start = now();

	device_write(&device, source, target, offset, 8);
	device_wait(&device);
	return now() - start;
}

static void write_each(const char *key, int times)
{
	for (int i = 1; i <= times; i++) {
		/* The device is awake, and knows all pages but the one. */
		write_once(0);
		sample(key, write_once((uint64_t)i * STEP));
	}
}

static void tell(const char *path, const char *text, bool must)
{
	FILE *file = fopen(path, "w");
	bool told = file && fputs(text, file) >= 0;

	if (file)
		told = !fclose(file) && told;
	if (!told && must)
		fail(path);
}

/* Pages out what is written to; false, with a reason printed, if the kernel leaves any of it. */
static bool page_out(uint8_t *at, uint64_t length, int times, const char *key, const char *group)
{
	char reclaim[256];

	snprintf(reclaim, sizeof(reclaim), "%s/memory.reclaim", group);
	for (int tries = 0; tries < 100; tries++) {
		uint64_t left = 0;

		/*
		 * Pages that another processor has faulted in, as the handler of the device's page
		 * requests does, may be in its hands still, where no reclaim finds them. This takes
		 * them out.
		 */
		tell("/proc/sys/vm/drop_caches", "1", true);
		if (madvise(at + STEP, length - STEP, MADV_PAGEOUT))
			fail("MADV_PAGEOUT");
		for (int i = 1; i <= times; i++) {
			uint8_t *page = at + (uint64_t)i * STEP;
			unsigned char cached;

			/* A page that was written to the disk may be in memory nevertheless. */
			if (mincore(page, PAGE, &cached))
				fail("mincore");
			left += !memory_swapped(page, PAGE) || (cached & 1);
		}
		if (!left)
			return true;
		/* Refused if there is not so much to be had. */
		tell(reclaim, "8M", false);
		nap(2);
	}
	none(key, "the kernel keeps the pages");
	return false;
}

static uint64_t swapped_in(void)
{
	unsigned long long number = 0;
	char line[128];
	FILE *file = fopen("/proc/vmstat", "r");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "pswpin %llu", &number) == 1)
			break;
	if (file)
		fclose(file);
	return number;
}

int measure_touch(const char *name, int gid_index, int times, char **arguments)
{
	bool pinned = !strcmp(arguments[0], "pinned");
	bool swaps = strcmp(arguments[1], "-");
	uint64_t length = (uint64_t)(times + 1) * STEP, before;
	uint8_t *at = memory_map(length, true);
	char key[64];

	device = device_open(name, gid_index);
	device_connect(&device);
	source = device_register(&device, memory_map(PAGE, true), PAGE);
	target = device_register(&device, at, length);
	if (!source || !target)
		fail("ibv_reg_mr");

	/* Code and rings are there. */
	for (int i = 0; i < 10; i++)
		write_once(0);
	for (int i = 0; i < times; i++)
		sample("touch/used", write_once(0));
	write_each("touch/present", times);
	if (pinned)
		return 0;

	if (madvise(at + STEP, length - STEP, MADV_DONTNEED))
		fail("MADV_DONTNEED");
	count("touch/minor-present", memory_present(at + STEP, length - STEP));
	write_each("touch/minor", times);
	if (!swaps)
		return 0;

	snprintf(key, sizeof(key), "touch/%s", arguments[1]);
	memory_touch(at, length);
	if (!page_out(at, length, times, key, arguments[2]))
		return 0;
	before = swapped_in();
	write_each(key, times);
	snprintf(key, sizeof(key), "touch/%s-in", arguments[1]);
	count(key, swapped_in() - before);
	return 0;
}
