// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The buffer, of the kind that was asked for. */
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

struct memory memory = { .fd = -1 };

bool memory_is_shared(void)
{
	return memory.fd >= 0;
}

uint8_t *memory_reserve(uint64_t length)
{
	void *at = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		fail("cannot reserve address space: %s", strerror(errno));
	return at;
}

static int flags(void)
{
	switch (memory.kind) {
	case KIND_HUGE_2M: return MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;
	case KIND_HUGE_1G: return MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 30 << MAP_HUGE_SHIFT;
	case KIND_ANON:
	case KIND_THP: return MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	default: return MAP_SHARED;
	}
}

int memory_map_again(uint8_t *at, uint64_t length, int protection)
{
	off_t offset = memory_is_shared() ? at - memory.at : 0;
	int patience = 200;

	/* Children may hold the rest of a pool of huge pages for a while. */
	while (mmap(at, length, protection, flags() | MAP_FIXED, memory.fd, offset) == MAP_FAILED) {
		if (errno != ENOMEM || memory.page == PAGE || !patience--)
			return -1;
		nap_us(20000);
	}
	if (memory.kind == KIND_THP)
		madvise(at, length, MADV_HUGEPAGE);
	return 0;
}

static void open_file(const char *path)
{
	struct stat stat;

	memory.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (memory.fd < 0 || fstat(memory.fd, &stat))
		fail("%s: %s", path, strerror(errno));
	/* A DAX character device has its size, and wants whole huge pages. */
	if (S_ISCHR(stat.st_mode))
		memory.page = 2 << 20;
	else if (ftruncate(memory.fd, memory.length))
		fail("%s: %s", path, strerror(errno));
}

static void choose_kind(const char *kind)
{
	const char *path = strchr(kind, ':');

	memory.page = PAGE;
	if (!strcmp(kind, "anon"))
		memory.kind = KIND_ANON;
	else if (!strcmp(kind, "thp"))
		memory.kind = KIND_THP;
	else if (!strcmp(kind, "shm"))
		memory.kind = KIND_SHM;
	else if (!strcmp(kind, "hugetlb-2m"))
		memory.kind = KIND_HUGE_2M, memory.page = 2 << 20;
	else if (!strcmp(kind, "hugetlb-1g"))
		memory.kind = KIND_HUGE_1G, memory.page = 1 << 30;
	else if (path && !strncmp(kind, "file:", 5))
		memory.kind = KIND_FILE;
	else if (path && !strncmp(kind, "dax:", 4))
		memory.kind = KIND_DAX;
	else
		fail("no such kind of memory: %s", kind);
	/* Who writes and reads a large buffer needs only a place for what is under way. */
	memory.length = (options.overcommit && !options.listens ? 16 : options.buffer_mib) << 20;
	memory.length = (memory.length + memory.page - 1) & -memory.page;
	if (memory.kind == KIND_SHM) {
		memory.fd = memfd_create("chaos", MFD_CLOEXEC);
		if (memory.fd < 0 || ftruncate(memory.fd, memory.length))
			fail("memfd_create: %s", strerror(errno));
	} else if (path) {
		open_file(path + 1);
	}
}

void memory_make(void)
{
	uint64_t align;
	uint8_t *at;

	choose_kind(options.memory);
	/* Where the huge pages of any kind can begin. */
	align = memory.page > 2 << 20 ? memory.page : 2 << 20;
	at = memory_reserve(memory.length + align);
	memory.at = (uint8_t *)(((uintptr_t)at + align - 1) & -align);
	if (memory_map_again(memory.at, memory.length, PROT_READ | PROT_WRITE))
		fail("cannot map %llu MiB of %s: %s", (unsigned long long)(memory.length >> 20), options.memory,
		     strerror(errno));
}
