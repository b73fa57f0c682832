// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Equal pages that become one, and small pages that become a huge one and small ones again. */
#include "chaos.h"

#include <stdio.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE (2u << 20)

static void set(const char *path, const char *value)
{
	FILE *file = fopen(path, "we");

	if (!file)
		return;
	fputs(value, file);
	fclose(file);
}

int step_ksm(uint64_t *random)
{
	static bool begun;
	struct piece range = mutate_anywhere(random, 16 << 20);
	/* Most of the time most pages may be merged. */
	bool merge = rng(random) % 8;

	if (!begun) {
		begun = true;
		set("/sys/kernel/mm/ksm/smart_scan", "0");
		set("/sys/kernel/mm/ksm/pages_to_scan", "2000");
		set("/sys/kernel/mm/ksm/sleep_millisecs", "20");
		set("/sys/kernel/mm/ksm/run", "1");
		range = (struct piece){ memory.at, memory.length };
		merge = true;
	}
	return mutate_result(M_KSM, madvise(range.at, range.length, merge ? MADV_MERGEABLE : MADV_UNMERGEABLE));
}

/* One small page of a huge one in a mapping of its own for a moment: the huge entry is split. */
static int split(uint8_t *at, uint64_t *random)
{
	uint8_t *page = at + rng(random) % (HUGE / PAGE) * PAGE;
	int result;

	mapping_lock();
	result = mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	if (!result && rng(random) % 2)
		madvise(page, PAGE, 21 /* MADV_PAGEOUT splits the page itself, not only its entry */);
	if (mprotect(page, PAGE, PROT_READ | PROT_WRITE))
		fail("a permission does not come back");
	mapping_unlock();
	return result;
}

int step_thp(uint64_t *random)
{
	uint64_t count = memory.length / HUGE;
	uint8_t *at = memory.at + (count ? rng(random) % count * HUGE : 0);

	if (!count)
		return mutate_result(M_THP, -1);
	switch (rng(random) % 6) {
	case 0:
		return mutate_result(M_THP, madvise(at, HUGE, MADV_HUGEPAGE));
	case 1:
		return mutate_result(M_THP, madvise(at, HUGE, MADV_NOHUGEPAGE));
	case 2: case 3:
		return mutate_result(M_THP, madvise(at, HUGE, MADV_COLLAPSE));
	default:
		return mutate_result(M_THP, split(at, random));
	}
}
