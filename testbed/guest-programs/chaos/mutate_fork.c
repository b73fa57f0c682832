// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Children that share the memory for a while, both sides writing: the child must see what was
 * there when it was born, whatever the device writes for the parent, and its own writes must not
 * show in the parent. Of memory that is shared with the child there is nothing to see: it only lives.
 */
#include "chaos.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WATCHED 12
#define WATCHED_BYTES (16u << 10)
#define LOOKS 10

/* What the child saw, in memory that both see. */
static struct seen {
	_Atomic uint64_t checked, wrong;
	const uint8_t *at;
	uint64_t before, after;
} *seen;

static uint64_t births;

static uint64_t digest(const uint8_t *at, uint32_t length)
{
	uint64_t sum = 0, word;

	for (uint32_t i = 0; i < length; i += 8) {
		memcpy(&word, at + i, 8);
		sum = mix(sum ^ word) + i;
	}
	return sum;
}

static void look(const uint8_t *at, uint32_t length, uint64_t before)
{
	uint64_t after = digest(at, length);

	seen->checked += length;
	if (after == before)
		return;
	if (!seen->wrong) {
		seen->at = at;
		seen->before = before;
		seen->after = after;
	}
	seen->wrong++;
}

/* In the child: nothing that takes a lock another thread may have held at the fork. */
static void live(uint64_t random)
{
	uint8_t *watched[WATCHED], *written[WATCHED];
	uint64_t before[WATCHED], own[WATCHED];
	uint32_t bytes = memory.length / WATCHED / 2 & -(uint64_t)PAGE;
	struct pattern pattern = pattern_of(PHASE_CHILD, link_.me, 0, 0, births);

	if (bytes > WATCHED_BYTES)
		bytes = WATCHED_BYTES;
	for (int i = 0; i < WATCHED; i++) {
		/* Watched and written pages lie in halves of the same part. */
		uint8_t *part = memory.at + i * (memory.length / WATCHED & -(uint64_t)PAGE);
		uint64_t half = memory.length / WATCHED / 2 & -(uint64_t)PAGE;
		uint64_t at = rng(&random) % (half - bytes + PAGE) & -(uint64_t)PAGE;

		watched[i] = part + at;
		written[i] = part + half + at;
		before[i] = digest(watched[i], bytes);
		pattern_fill(written[i], pattern, 0, bytes);
		own[i] = digest(written[i], bytes);
	}
	if (options.corrupt == CORRUPT_SNAPSHOT && births >= options.corrupt_after)
		watched[0][bytes / 2] ^= 0x55;
	for (int times = 0; times < LOOKS; times++) {
		nap_us(2000);
		for (int i = 0; i < WATCHED; i++) {
			look(watched[i], bytes, before[i]);
			look(written[i], bytes, own[i]);
		}
	}
}

static bool is_copied(void)
{
	/* A child that writes huge pages of a pool takes more of them than there may be. */
	return !memory_is_shared() && memory.page == PAGE;
}

int step_fork(uint64_t *random)
{
	uint64_t random_of_child = rng(random);
	int status, child;

	births++;
	mapping_lock();
	if (!seen) {
		/* Under the lock: a hole in the buffer would be a good place for it otherwise. */
		seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (seen == MAP_FAILED)
			fail("no memory");
	}
	child = fork();
	mapping_unlock();
	if (child < 0)
		return mutate_result(M_FORK, -1);
	if (!child) {
		if (is_copied())
			live(random_of_child);
		else
			nap_us(10000);
		_exit(0);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		report_fault("a child ended with status %#x", status);
	counts.bytes_checked += seen->checked;
	if (seen->wrong) {
		report_wrong("a child's snapshot", seen->at, 0, seen->before, seen->after);
		counts.wrong_bytes += seen->wrong;
	}
	seen->checked = seen->wrong = 0;
	return mutate_result(M_FORK, 0);
}
