// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A buffer that may be larger than the memory of its guest: the peer writes all of it once, then
 * reads all of it once and checks every byte; then the owner checks a part by itself.
 */
#include "chaos.h"

#include <stdio.h>
#include <string.h>

/* Chunks under way at a time, each with a cell of its own in the peer's small buffer. */
#define UNDER_WAY 8
#define CHUNK (1u << 20)
/* Swap may be slow, but something has to come within this. */
#define STALLED_NS 120000000000ull
/* The owner checks one chunk of so many: reading all of it once was the peer's task. */
#define OWNERS_SHARE 8

static struct chunk {
	bool busy, done;
	uint64_t index;
} chunk[UNDER_WAY];

static struct span place(int slot)
{
	return (struct span){ .count = 1, .piece = { { memory.at + slot * (uint64_t)CHUNK, CHUNK } } };
}

static struct pattern pattern(uint64_t index)
{
	return pattern_of(PHASE_DATA, 1, 0, index & 0x1fff, index);
}

void overcommit_completed(int slot, bool good)
{
	chunk[slot].busy = false;
	chunk[slot].done = good;
}

/* Starts a request for a chunk of the owner's buffer. */
static void start(int slot, enum op op, uint64_t index)
{
	struct span span = place(slot);

	chunk[slot] = (struct chunk){ .busy = true, .index = index };
	if (op == OP_WRITE)
		span_fill(&span, pattern(index));
	if (op == OP_WRITE && options.corrupt == CORRUPT_SOURCE && index == options.corrupt_after)
		span.piece[0].at[CHUNK / 2] ^= 0x55;
	traffic_post(slot % options.qps, &(struct post){ .op = op, .lane = slot, .span = &span, .rkey = link_.peer.rkey,
							 .remote = link_.peer.buffer + index * CHUNK });
}

static bool any_dead(void)
{
	for (int qp = 0; qp < options.qps; qp++)
		if (traffic_dead(qp))
			return true;
	return false;
}

/* Goes over the whole buffer once. */
static bool pass(enum op op)
{
	uint64_t count = options.buffer_mib, next = 0, ended = 0, moved = now_ns();

	while (ended < count && !any_dead() && now_ns() - moved < STALLED_NS) {
		bool did = traffic_poll() > 0;

		if (did)
			moved = now_ns();

		for (int slot = 0; slot < UNDER_WAY; slot++) {
			struct span span = place(slot);

			if (chunk[slot].busy)
				continue;
			if (chunk[slot].done && op == OP_READ)
				span_check(&span, pattern(chunk[slot].index), -1, 0, STRICT, "READ of the large buffer");
			ended += chunk[slot].done;
			chunk[slot].done = false;
			if (next < count && !any_dead()) {
				start(slot, op, next++);
				did = true;
			}
		}
		if (!did)
			nap_us(200);
		report_progress(counts.bytes_moved);
	}
	if (ended == count)
		return true;
	report_fault("%llu of %llu MiB were transferred", (unsigned long long)ended, (unsigned long long)count);
	return false;
}

/* Lets the peer do its part; whether it said that it has. */
static bool serve(const char *until)
{
	for (;;) {
		const char *line = wire_listen(&link_.wire);

		if (!line)
			return false;
		if (!strcmp(line, until))
			return true;
		traffic_poll();
		nap_us(20000);
		report_progress(0);
	}
}

static bool own_check(void)
{
	for (uint64_t index = 0; index < options.buffer_mib; index++) {
		if (mix(options.seed ^ index) % OWNERS_SHARE && index + 1 != options.buffer_mib)
			continue;
		pattern_check(memory.at + index * CHUNK, pattern(index), 0, CHUNK, STRICT, "the large buffer");
		report_progress(0);
	}
	return true;
}

bool overcommit_run(void)
{
	bool ended = options.listens ? serve("written") && own_check() : pass(OP_WRITE);

	wire_say(&link_.wire, "written\n");
	if (options.listens)
		ended = ended && serve("read");
	else if (ended && (ended = serve("written")))
		ended = pass(OP_READ);
	wire_say(&link_.wire, "read\n");
	ended = ended && (options.listens || serve("read"));
	if (!ended)
		report_fault("the pass over the large buffer did not end");
	traffic_flush();
	return ended;
}
