// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * What the n-th round of a lane does, and what the n-th message of a queue pair holds. Both ends
 * work it out by themselves, so that who checks does not have to trust what arrived.
 */
#include "chaos.h"

static uint64_t start(int end, int qp, int lane, uint64_t seq, unsigned what)
{
	uint64_t random = options.seed;

	random = mix(random ^ (uint64_t)what << 60 ^ (uint64_t)end << 56 ^ (uint64_t)qp << 48 ^ (uint64_t)lane << 32 ^ seq);
	return random;
}

static uint32_t length_of(uint64_t *random)
{
	uint32_t most = layout.longest, least = 1;

	switch (rng(random) % 10) {
	case 0: most = 8; break;
	case 1: least = 9, most = 256; break;
	case 2: case 3: least = 257, most = 4096; break;
	case 4: case 5: least = 4097, most = 16384; break;
	case 6: case 7: least = 16385, most = 131072; break;
	case 8: least = 131073; break;
	case 9: least = most = rng(random) % 4 ? 1u << rng(random) % 17 : layout.longest; break;
	}
	if (most > layout.longest)
		most = layout.longest;
	return least >= most ? most : least + rng(random) % (most - least + 1);
}

static bool may_be_lax(void)
{
	return link_.peer.races || mutate_discards();
}

/* A word of the data that is aligned in the peer's cell. */
static void atomics(struct plan *plan, uint64_t *random)
{
	uint32_t first = -plan->offset & 7;

	plan->word = -1;
	if (plan->lax || plan->uniform || plan->flavour == FLAVOUR_ECHO_IMM || plan->length < first + 8)
		return;
	plan->word = first + 8 * (rng(random) % ((plan->length - first) / 8));
	plan->add = rng(random);
	plan->swap = rng(random);
	plan->match = rng(random) % 4;
	plan->before = pattern_word(plan->data, plan->word);
	plan->between = plan->before + plan->add;
	plan->after = plan->match ? plan->swap : plan->between;
}

struct plan plan_round(int end, int qp, int lane, uint64_t seq)
{
	uint64_t random = start(end, qp, lane, seq, 1);
	uint64_t bits = rng(&random), room;
	struct plan plan = { .flavour = bits % 3, .length = length_of(&random) };

	plan.lax = may_be_lax() && (bits >> 8) % 4 == 0;
	plan.uniform = (bits >> 12) % 8 == 0;
	plan.inlined = plan.length <= link_.inline_bytes && (bits >> 16) % 2;
	plan.guards = (bits >> 20) % 2;
	plan.stale = (bits >> 24) % 4 == 0;
	room = layout.stride - 2 * MARGIN - plan.length;
	plan.offset = MARGIN + rng(&random) % (room + 1);
	if ((bits >> 28) % 4 == 0)
		plan.offset &= ~7u;
	if (plan.uniform) {
		plan.length = plan.length < PAGE ? plan.length : plan.length & -PAGE;
		plan.offset = PAGE;
		plan.inlined = plan.inlined && plan.length <= link_.inline_bytes;
	}
	plan.data = plan.uniform ? pattern_uniform(seq) : pattern_of(PHASE_DATA, end, qp, lane, seq);
	plan.reply = pattern_of(PHASE_REPLY, end, qp, lane, seq);
	plan.guard = pattern_of(PHASE_GUARD, end, qp, lane, seq);
	atomics(&plan, &random);
	return plan;
}

struct send_plan plan_send(int end, int qp, uint64_t number)
{
	uint64_t random = start(end, qp, 0, number, 2), bits = rng(&random);

	return (struct send_plan){
		.length = length_of(&random),
		.lax = may_be_lax() && bits % 4 == 0,
		.immediate = (bits >> 8) % 2,
		.data = pattern_of(PHASE_SEND, end, qp, 0, number),
	};
}
