// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The mutating threads: one for each case, which does its step again and again. */
#include "chaos.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static bool always(void)
{
	return true;
}

/* Pages of 1 GiB are never parts of a cell. */
static bool cells_own_pages(void)
{
	return memory.page <= 2 << 20;
}

static bool private_small(void)
{
	return !memory_is_shared() && memory.page == PAGE;
}

static bool small(void)
{
	return memory.page == PAGE && memory.kind != KIND_DAX;
}

/* Linux (6.12, 7.3) never gives back what a pool reserved for a part of a mapping that moved. */
static bool no_pool(void)
{
	return memory.page == PAGE;
}

static bool can_move(void)
{
	return two_nodes() && memory.kind != KIND_DAX && memory.kind != KIND_HUGE_1G;
}

/* It has memory of its own, of any kind, but both ends have to live. */
static bool can_have_holes(void)
{
	return !options.expect_death && !options.die && !options.overcommit;
}

/* Pauses keep two processors from doing nothing else. */
struct mutator mutators[MUTATIONS] = {
	[M_DONTNEED] = { "dontneed", cells_own_pages, step_dontneed, 1000 },
	[M_FREE] = { "free", private_small, step_free, 1000 },
	[M_COLD] = { "cold", small, step_cold, 3000 },
	[M_PAGEOUT] = { "pageout", small, step_pageout, 5000 },
	[M_MREMAP] = { "mremap", no_pool, step_mremap, 2000 },
	[M_REMAP] = { "remap", cells_own_pages, step_remap, 2000 },
	[M_MPROTECT] = { "mprotect", always, step_mprotect, 1000 },
	[M_FORK] = { "fork", always, step_fork, 50000 },
	[M_KSM] = { "ksm", private_small, step_ksm, 20000 },
	[M_THP] = { "thp", small, step_thp, 10000 },
	[M_MOVE_PAGES] = { "move_pages", can_move, step_move_pages, 3000 },
	[M_HOLE] = { "hole", can_have_holes, NULL, 0 },
	[M_COMPACT] = { "compact", small, step_compact, 200000 },
};

_Atomic bool running;

static pthread_t threads[MUTATIONS];
static pthread_mutex_t mapping = PTHREAD_MUTEX_INITIALIZER;

/* Whoever lets the kernel choose an address holds this, too: it may choose a hole. */
void mapping_lock(void)
{
	pthread_mutex_lock(&mapping);
}

void mapping_unlock(void)
{
	pthread_mutex_unlock(&mapping);
}

void mutate_choose(void)
{
	for (int i = 0; i < MUTATIONS; i++) {
		bool suits = mutators[i].suits();

		if (options.cases & 1u << i && !suits)
			fail("%s does not suit %s memory here", mutators[i].name, options.memory);
		if (options.all && suits)
			options.cases |= 1u << i;
	}
}

bool mutate_discards(void)
{
	return !memory_is_shared() && options.cases & (1u << M_DONTNEED | 1u << M_FREE | 1u << M_REMAP);
}

static struct piece range(uint8_t *at, uint64_t length, uint64_t *random, uint64_t most)
{
	uint64_t pages = length / memory.page, first, count;

	if (!pages)
		return (struct piece){ 0 };
	/* As often one page as many. */
	first = rng(random) % pages;
	count = rng(random) % 2 ? 1 : 1 + rng(random) % (most / memory.page ? most / memory.page : 1);
	if (count > pages - first)
		count = pages - first;
	return (struct piece){ at + first * memory.page, count * memory.page };
}

struct piece mutate_range(struct cell *cell, uint64_t *random, uint64_t most)
{
	return range(cell->at, layout.stride, random, most);
}

struct piece mutate_anywhere(uint64_t *random, uint64_t most)
{
	return range(memory.at, memory.length, random, most);
}

int mutate_result(enum mutation mutation, int result)
{
	if (result)
		mutators[mutation].refused++;
	else
		mutators[mutation].done++;
	return result;
}

static void *mutate(void *argument)
{
	struct mutator *mutator = argument;
	uint64_t random = mix(options.seed + 100 + (mutator - mutators) + 1000 * link_.me);
	unsigned others = __builtin_popcount(options.cases);

	while (running) {
		uint64_t before = now_ns(), took_us;

		mutator->step(&random);
		/* The more threads mutate, the less each of them does. */
		took_us = (now_ns() - before) / 1000 * (others / 4);
		if (took_us > 2000000)
			took_us = 2000000;
		nap_us(mutator->pause_us / 2 + rng(&random) % mutator->pause_us + took_us);
	}
	return NULL;
}

void mutate_start(void)
{
	running = true;
	hole_start();
	for (int i = 0; i < MUTATIONS; i++)
		if (options.cases & 1u << i && mutators[i].step && pthread_create(&threads[i], NULL, mutate, &mutators[i]))
			fail("no thread");
}

void mutate_stop(void)
{
	running = false;
	for (int i = 0; i < MUTATIONS; i++)
		if (options.cases & 1u << i && mutators[i].step)
			pthread_join(threads[i], NULL);
	hole_stop();
}
