// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Pages that go, and new ones that are zero: of cells that are in no transfer, or in one whose
 * bytes may be zero. Of memory that a file holds, any page at any time, since the contents stay.
 * None of this leaves a moment in which an address is not mapped, but for what has a hole.
 */
#include "chaos.h"

#include <sys/mman.h>

#ifndef MADV_FREE
#define MADV_FREE 8
#endif

#define IDLE_OR_LAX (1u << PARKED | 1u << MUTATED | 1u << LAX)
#define IDLE_ONLY (1u << PARKED | 1u << MUTATED)

static int advise(uint64_t *random, enum mutation mutation, int advice)
{
	struct cell *cell;
	struct piece range;
	int result;

	if (memory_is_shared()) {
		range = mutate_anywhere(random, 1 << 20);
		return mutate_result(mutation, madvise(range.at, range.length, advice));
	}
	cell = cell_hold(random, IDLE_OR_LAX);
	if (!cell)
		return 0;
	range = mutate_range(cell, random, layout.stride);
	result = mutate_result(mutation, madvise(range.at, range.length, advice));
	cell_release(cell);
	return result;
}

int step_dontneed(uint64_t *random)
{
	return advise(random, M_DONTNEED, MADV_DONTNEED);
}

int step_free(uint64_t *random)
{
	return advise(random, M_FREE, MADV_FREE);
}

/* Unmaps and maps in two calls, with nothing in between. */
static int with_hole(struct piece range)
{
	int result;

	mapping_lock();
	result = munmap(range.at, range.length);
	if (!result && memory_map_again(range.at, range.length, PROT_READ | PROT_WRITE))
		fail("cannot map again what was unmapped: the pool of huge pages may be too small");
	mapping_unlock();
	return result;
}

int step_remap(uint64_t *random)
{
	/* A pool of huge pages may be empty for a moment, and that is a hole. */
	bool hole = memory.page > PAGE || rng(random) % 3 == 0;
	struct cell *cell;
	struct piece range;
	int result;

	if (memory_is_shared() && !hole) {
		range = mutate_anywhere(random, 1 << 20);
		return mutate_result(M_REMAP, memory_map_again(range.at, range.length, PROT_READ | PROT_WRITE));
	}
	cell = cell_hold(random, hole ? IDLE_ONLY : IDLE_OR_LAX);
	if (!cell)
		return 0;
	range = mutate_range(cell, random, layout.stride);
	result = hole ? with_hole(range) : memory_map_again(range.at, range.length, PROT_READ | PROT_WRITE);
	mutate_result(M_REMAP, result);
	cell_release(cell);
	return result;
}
