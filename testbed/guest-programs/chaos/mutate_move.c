// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Pages that move to other addresses, and addresses whose pages move to another node. */
#include "chaos.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IDLE_ONLY (1u << PARKED | 1u << MUTATED)

/* From linux/mempolicy.h, which belongs to no library. */
#define POLICY_DEFAULT 0
#define POLICY_BIND 2
#define MOVE 2
#define MOVED_AT_A_TIME 64

/* Address space for moving through. */
static uint8_t *aside;

static void reserve_aside(void)
{
	uint8_t *at;

	if (aside)
		return;
	at = memory_reserve(layout.stride + (4 << 20));
	aside = (uint8_t *)(((uintptr_t)at + (2 << 20) - 1) & -(uintptr_t)(2 << 20));
}

static int move(uint8_t *from, uint8_t *to, uint64_t length)
{
	if (mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
		return -1;
	/* Or the kernel gives the place to somebody, on whom the next move would fall. */
	if (from == aside && mmap(aside, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
				  -1, 0) != aside)
		fail("the place for moving through is taken");
	return 0;
}

/* Puts in order what a failure left half done: contents of idle cells do not matter. */
static void mend(struct piece range)
{
	if (memory_map_again(range.at, range.length, PROT_READ | PROT_WRITE))
		fail("cannot map again what could not be moved");
}

/* Exchanges the pages of two idle cells: who keeps an old translation writes the wrong cell. */
static int exchange(uint64_t *random, struct cell *cell)
{
	struct cell *other = cell_hold(random, IDLE_ONLY);
	struct piece range = mutate_range(cell, random, 64 * memory.page), there = range;
	int result;

	if (!other)
		return 0;
	there.at = other->at + (range.at - cell->at);
	result = move(range.at, aside, range.length);
	if (!result) {
		result = move(there.at, range.at, range.length);
		if (result)
			mend(range);
		if (move(aside, there.at, range.length))
			mend(there);
	}
	/* An exchange of a file's pages would leave the file in another order. */
	if (memory_is_shared()) {
		mend(range);
		mend(there);
	}
	mutate_result(M_MREMAP, result);
	cell_release(other);
	return result;
}

/* Replaces pages that are only read, in one step, by others with the same contents. */
static int replace(struct piece range)
{
	int result;

	if (memory_is_shared()) {
		void *view = mmap(aside, range.length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory.fd, range.at - memory.at);

		if (view == MAP_FAILED)
			return mutate_result(M_MREMAP, -1);
	} else {
		if (mmap(aside, range.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			return mutate_result(M_MREMAP, -1);
		memcpy(aside, range.at, range.length);
	}
	result = move(aside, range.at, range.length);
	return mutate_result(M_MREMAP, result);
}

int step_mremap(uint64_t *random)
{
	bool idle = rng(random) % 2;
	struct cell *cell;
	int result;

	mapping_lock();
	reserve_aside();
	if (!idle && memory_is_shared()) {
		/* Any page: the new mapping shows the same file. */
		result = replace(mutate_anywhere(random, 1 << 20));
	} else {
		cell = cell_hold(random, idle ? IDLE_ONLY : 1u << READ_ONLY);
		result = 0;
		if (cell) {
			result = idle ? exchange(random, cell) : replace(mutate_range(cell, random, layout.stride));
			cell_release(cell);
		}
	}
	mapping_unlock();
	return result;
}

bool two_nodes(void)
{
	return !access("/sys/devices/system/node/node1", F_OK);
}

static int bind_to(struct piece range, int node)
{
	unsigned long mask = 1ul << node;
	long result = syscall(SYS_mbind, range.at, range.length, POLICY_BIND, &mask, sizeof(mask) * 8, MOVE);

	/* Policies that stay would cut the mapping into pieces for ever. */
	syscall(SYS_mbind, range.at, range.length, POLICY_DEFAULT, NULL, 0ul, 0);
	return result ? -1 : 0;
}

int step_move_pages(uint64_t *random)
{
	struct piece range = mutate_anywhere(random, MOVED_AT_A_TIME * memory.page);
	int nodes[MOVED_AT_A_TIME], status[MOVED_AT_A_TIME], node = rng(random) % 2;
	void *pages[MOVED_AT_A_TIME];
	uint64_t count = range.length / memory.page;

	if (rng(random) % 3 == 0)
		return mutate_result(M_MOVE_PAGES, bind_to(range, node));
	for (uint64_t i = 0; i < count; i++) {
		pages[i] = range.at + i * memory.page;
		nodes[i] = node;
	}
	/* More than 0 is the number of pages that could not be moved just now. */
	return mutate_result(M_MOVE_PAGES, syscall(SYS_move_pages, 0, count, pages, nodes, status, MOVE) < 0 ? -1 : 0);
}
