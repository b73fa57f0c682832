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

/* Pages that are taken back at a time. */
#define CAUGHT 64
#define IDLE_ONLY (1u << PARKED | 1u << MUTATED)

/*
 * Takes the page frames that have just been freed, since a processor gets first what it freed
 * last, and looks whether somebody still writes them.
 */
static void reuse(uint64_t *random, uint64_t length)
{
	/* Of each thread its own: these are threads of different cases. */
	static _Thread_local uint8_t *arena;
	struct pattern pattern = pattern_of(PHASE_BYSTANDER, link_.me, 0, 0x1ffe, rng(random));

	if (memory.page > PAGE)
		return;
	if (!arena) {
		mapping_lock();
		arena = memory_reserve(CAUGHT * PAGE);
		mapping_unlock();
		if (mprotect(arena, CAUGHT * PAGE, PROT_READ | PROT_WRITE))
			fail("no memory");
	}
	if (length > CAUGHT * PAGE)
		length = CAUGHT * PAGE;
	pattern_fill(arena, pattern, 0, length);
	nap_us(rng(random) % 500);
	pattern_check(arena, pattern, 0, length, STRICT, "page frames that were freed");
	madvise(arena, length, MADV_DONTNEED);
}

/* Rather a cell in the middle of a transfer, if its bytes may turn zero, than one that rests. */
static struct cell *idle_or_lax(uint64_t *random)
{
	struct cell *cell = rng(random) % 4 ? cell_hold(random, 1u << LAX) : NULL;

	return cell ? cell : cell_hold(random, IDLE_ONLY | 1u << LAX);
}

static int advise(uint64_t *random, enum mutation mutation, int advice)
{
	struct cell *cell;
	struct piece range;
	int result;

	if (memory_is_shared()) {
		range = mutate_anywhere(random, 1 << 20);
		return mutate_result(mutation, madvise(range.at, range.length, advice));
	}
	cell = idle_or_lax(random);
	if (!cell)
		return 0;
	range = mutate_range(cell, random, layout.stride);
	result = madvise(range.at, range.length, advice);
	if (advice == MADV_DONTNEED)
		reuse(random, range.length);
	cell_release(cell);
	return mutate_result(mutation, result);
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
	cell = hole ? cell_hold(random, IDLE_ONLY) : idle_or_lax(random);
	if (!cell)
		return 0;
	range = mutate_range(cell, random, layout.stride);
	result = hole ? with_hole(range) : memory_map_again(range.at, range.length, PROT_READ | PROT_WRITE);
	reuse(random, range.length);
	cell_release(cell);
	return mutate_result(M_REMAP, result);
}
