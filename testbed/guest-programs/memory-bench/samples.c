// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Numbers and their printing, and memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define KEYS 64
#define MOST 4096

static struct series {
	char key[96];
	uint64_t *values;
	unsigned count;
} all[KEYS];

uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void nap(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l }, NULL);
}

void print(const char *line)
{
	puts(line);
}

/* Printed only at the end: printing is work for the device that the answers go through. */
void sample(const char *key, uint64_t ns)
{
	struct series *series = all;

	while (series->count && strcmp(series->key, key))
		if (++series == all + KEYS) {
			errno = ENOSPC;
			fail(key);
		}
	if (!series->count) {
		snprintf(series->key, sizeof(series->key), "%s", key);
		series->values = calloc(MOST, sizeof(*series->values));
	}
	if (!series->values || series->count == MOST) {
		errno = ENOMEM;
		fail(key);
	}
	series->values[series->count++] = ns;
}

void none(const char *key, const char *reason)
{
	printf("%s none %s\n", key, reason);
}

void count(const char *key, uint64_t number)
{
	printf("%s count %llu\n", key, (unsigned long long)number);
}

void samples_print(void)
{
	for (struct series *series = all; series < all + KEYS && series->count; series++) {
		fputs(series->key, stdout);
		for (unsigned i = 0; i < series->count; i++)
			printf(" %llu", (unsigned long long)series->values[i]);
		putchar('\n');
	}
}

uint8_t *memory_map(uint64_t length, bool touched)
{
	uint8_t *at = mmap(NULL, length, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		fail("mmap");
	if (touched)
		memory_touch(at, length);
	return at;
}

void memory_touch(uint8_t *at, uint64_t length)
{
	for (uint64_t offset = 0; offset < length; offset += PAGE)
		*(volatile uint8_t *)(at + offset) = 1;
}

static uint64_t count_pages(const uint8_t *at, uint64_t length, int bit)
{
	static int file = -1;
	uint64_t pages = 0;

	if (file < 0)
		file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	for (uint64_t offset = 0; offset < length; offset += PAGE) {
		uint64_t entry, where = ((uintptr_t)at + offset) / PAGE * sizeof(entry);

		if (pread(file, &entry, sizeof(entry), (off_t)where) != sizeof(entry))
			fail("/proc/self/pagemap");
		pages += entry >> bit & 1;
	}
	return pages;
}

uint64_t memory_present(const uint8_t *at, uint64_t length)
{
	return count_pages(at, length, 63);
}

uint64_t memory_swapped(const uint8_t *at, uint64_t length)
{
	return count_pages(at, length, 62);
}
