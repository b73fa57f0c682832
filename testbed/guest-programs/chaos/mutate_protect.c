// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Permissions that go and come back. */
#include "chaos.h"

#include <sys/mman.h>

#define IDLE_ONLY (1u << PARKED | 1u << MUTATED)
#define READ_WRITE (PROT_READ | PROT_WRITE)

/* Down and up again, while nobody needs what is taken away. */
static int down_and_up(struct piece range, int protection)
{
	int result;

	mapping_lock();
	result = mprotect(range.at, range.length, protection);
	if (!result)
		nap_us(200);
	if (mprotect(range.at, range.length, READ_WRITE))
		fail("a permission does not come back");
	mapping_unlock();
	return mutate_result(M_MPROTECT, result);
}

int step_mprotect(uint64_t *random)
{
	unsigned how = rng(random) % 4;
	struct cell *cell;
	int result;

	/* A permission more and less changes every entry, and nobody may notice: any page, any time. */
	if (how < 2 || memory.page > 2 << 20)
		return down_and_up(mutate_anywhere(random, 1 << 20), READ_WRITE | PROT_EXEC);
	cell = cell_hold(random, how == 2 ? IDLE_ONLY : IDLE_ONLY | 1u << READ_ONLY);
	if (!cell)
		return 0;
	result = down_and_up(mutate_range(cell, random, layout.stride), how == 2 ? PROT_NONE : PROT_READ);
	cell_release(cell);
	return result;
}
