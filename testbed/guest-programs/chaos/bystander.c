// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Memory of the same process that was never registered: allocated, filled, checked and freed all
 * the time, so that page frames which left the buffer turn up here, and a late write shows.
 */
#include "chaos.h"

#include <pthread.h>
#include <sys/mman.h>

#define CHUNKS 64
#define CHUNK (64u << 10)

static pthread_t thread;
static _Atomic bool alive;
static uint8_t *arena;

static void check(int chunk, uint64_t seq)
{
	pattern_check(arena + chunk * CHUNK, pattern_of(PHASE_BYSTANDER, link_.me, 0, chunk, seq), 0, CHUNK, STRICT, "bystander");
	/* Frees the pages and keeps the addresses. */
	if (mmap(arena + chunk * CHUNK, CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail("bystander cannot free");
}

static void fill(int chunk, uint64_t seq)
{
	uint8_t *at = arena + chunk * CHUNK;

	if (mmap(at, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail("bystander cannot allocate");
	pattern_fill(at, pattern_of(PHASE_BYSTANDER, link_.me, 0, chunk, seq), 0, CHUNK);
	if (options.corrupt == CORRUPT_BYSTANDER && seq == options.corrupt_after)
		at[CHUNK / 2] ^= 0x55;
}

static void *stand_by(void *unused)
{
	uint64_t seq[CHUNKS] = { 0 }, random = mix(options.seed + 77 + link_.me), filled = 0;

	(void)unused;
	while (alive) {
		int chunk = rng(&random) % CHUNKS;

		if (seq[chunk]) {
			check(chunk, seq[chunk]);
			seq[chunk] = 0;
		} else {
			seq[chunk] = ++filled;
			fill(chunk, filled);
		}
		nap_us(1000);
	}
	for (int chunk = 0; chunk < CHUNKS; chunk++)
		if (seq[chunk])
			check(chunk, seq[chunk]);
	return NULL;
}

void bystander_start(void)
{
	arena = memory_reserve(CHUNKS * CHUNK);
	alive = true;
	if (pthread_create(&thread, NULL, stand_by, NULL))
		fail("no thread");
}

void bystander_stop(void)
{
	alive = false;
	pthread_join(thread, NULL);
}
