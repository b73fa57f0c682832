// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The other half of the peer's rounds: checks what was written here when it is told, and allows
 * the next round once the cell is ready for it. In between the cell is free to be mutated.
 */
#include "chaos.h"

#include <arpa/inet.h>
#include <stdlib.h>

/* How long a cell waits for a mutating thread before it is used again. */
#define PATIENCE_NS 20000000

struct in {
	uint64_t seq, deadline;
	struct plan plan;
	bool replied; /* the answer to a part of a round is owed, not yet the permission for the next */
};

struct inbox {
	struct span span;
	struct pattern guard;
	bool guarded;
	uint64_t times, deadline;
};

static struct responder {
	struct in *in;
	struct inbox inbox[64];
	/* Lanes to which something is owed. */
	int *owed, first, count;
	int posted;
	uint64_t random, taken;
} responder[MAX_QPS];

static struct span span_of(int qp, int lane)
{
	const struct plan *plan = &responder[qp].in[lane].plan;

	return (struct span){ .count = 1, .piece = { { cell_of(qp, USE_IN, lane)->at + plan->offset, plan->length } } };
}

/* Readies a cell, which this end owns, for the next round. */
static void prepare(int qp, int lane)
{
	struct in *in = &responder[qp].in[lane];
	struct span span;

	in->plan = plan_round(!link_.me, qp, lane, in->seq);
	span = span_of(qp, lane);
	if (in->plan.stale)
		span_fill(&span, pattern_of(PHASE_STALE, link_.me, qp, lane, in->seq));
	if (in->plan.guards)
		guards_fill(&span, in->plan.guard);
	cell_set(cell_of(qp, USE_IN, lane), in->plan.lax && mutate_discards() ? LAX : WRITABLE);
}

static void post_inbox(int qp, int index)
{
	struct responder *own = &responder[qp];
	struct inbox *inbox = &own->inbox[index];
	struct cell *cell = cell_of(qp, USE_RECV, index);
	bool lax = mutate_discards() && rng(&own->random) % 4 == 0;

	inbox->span = span_in(cell, layout.longest, &own->random);
	inbox->guard = pattern_of(PHASE_GUARD, link_.me, qp, index | 0x1800, inbox->times++);
	inbox->guarded = !lax && rng(&own->random) % 8 == 0;
	if (inbox->guarded)
		span_fill(&inbox->span, inbox->guard);
	cell_set(cell, lax ? LAX : WRITABLE);
	own->posted++;
	traffic_post_recv(qp, index, &inbox->span);
}

void responder_make(void)
{
	for (int qp = 0; qp < options.qps; qp++) {
		struct responder *own = &responder[qp];

		own->random = mix(options.seed + 1000 * link_.me + 500 + qp);
		own->in = calloc(layout.lanes, sizeof(*own->in));
		own->owed = calloc(layout.lanes, sizeof(*own->owed));
		if (!own->in || !own->owed)
			fail("no memory for lanes");
		for (int lane = 0; lane < layout.lanes; lane++) {
			cell_own(cell_of(qp, USE_IN, lane));
			prepare(qp, lane);
		}
		for (int i = 0; i < layout.recvs; i++) {
			cell_own(cell_of(qp, USE_RECV, i));
			post_inbox(qp, i);
		}
	}
}

static void owe(struct responder *own, int lane)
{
	own->owed[(own->first + own->count++) % layout.lanes] = lane;
}

/* Does what is owed to a lane; false if it is not time yet. */
static bool pay(int qp, int lane)
{
	struct in *in = &responder[qp].in[lane];
	struct cell *cell = cell_of(qp, USE_IN, lane);

	if (traffic_room(qp) < 1)
		return false;
	if (!in->replied) {
		if (cell_state(cell) == PARKED && now_ns() < in->deadline)
			return false;
		if (!cell_try_own(cell))
			return false;
		in->seq++;
		prepare(qp, lane);
	}
	traffic_post(qp, &(struct post){ .op = OP_ACK, .lane = lane, .swap = 2 * in->seq + in->replied });
	return true;
}

static bool repost(int qp)
{
	bool did = false;

	for (int i = 0; i < layout.recvs; i++) {
		struct inbox *inbox = &responder[qp].inbox[i];
		struct cell *cell = cell_of(qp, USE_RECV, i);

		if (!inbox->deadline || (cell_state(cell) == PARKED && now_ns() < inbox->deadline) || !cell_try_own(cell))
			continue;
		inbox->deadline = 0;
		post_inbox(qp, i);
		did = true;
	}
	return did;
}

bool responder_step(int qp)
{
	struct responder *own = &responder[qp];
	bool did = false;

	if (traffic_dead(qp))
		return false;
	for (int tries = own->count < 8 ? own->count : 8; tries; tries--) {
		int lane = own->owed[own->first];

		own->first = (own->first + 1) % layout.lanes;
		own->count--;
		if (pay(qp, lane))
			did = true;
		else
			owe(own, lane);
	}
	if (own->posted < layout.recvs)
		did |= repost(qp);
	return did;
}

/* The round needs the cell no more. */
static void finish(int qp, int lane)
{
	struct in *in = &responder[qp].in[lane];
	struct cell *cell = cell_of(qp, USE_IN, lane);

	cell_own(cell);
	cell_set(cell, PARKED);
	in->replied = false;
	in->deadline = options.cases && rng(&responder[qp].random) % 2 ? now_ns() + PATIENCE_NS : 0;
	owe(&responder[qp], lane);
}

static void check(int qp, int lane)
{
	const struct plan *plan = &responder[qp].in[lane].plan;
	enum strictness strictness = plan->lax ? OR_ZERO : STRICT;
	struct span span = span_of(qp, lane);

	span_check(&span, plan->data, plan->word, plan->after, strictness, "written by the peer");
	if (plan->guards)
		guards_check(&span, plan->guard, strictness, "around what the peer wrote");
}

static void noticed(int qp, uint32_t immediate)
{
	struct responder *own = &responder[qp];
	int lane = immediate >> 19;
	enum notice what = immediate >> 17 & 3;
	struct in *in = &own->in[lane < layout.lanes ? lane : 0];
	struct span span;

	if (lane >= layout.lanes || (immediate & 0x1ffff) != (in->seq & 0x1ffff) ||
	    (what == NOTICE_DONE) != in->replied || (what == NOTICE_CHECK) != (in->plan.flavour == FLAVOUR_CHAIN)) {
		report_fault("a notification that nobody can have sent: %08x on queue pair %d", immediate, qp);
		return;
	}
	if (what != NOTICE_DONE)
		check(qp, lane);
	if (what != NOTICE_CHECK_AND_REPLY) {
		finish(qp, lane);
		return;
	}
	span = span_of(qp, lane);
	span_fill(&span, in->plan.reply);
	in->replied = true;
	owe(own, lane);
}

static void message(int qp, struct inbox *inbox, bool lax, const struct ibv_wc *wc)
{
	struct responder *own = &responder[qp];
	uint64_t number = own->taken++;
	struct send_plan plan = plan_send(!link_.me, qp, number);
	struct span span = span_part(&inbox->span, 0, plan.length), rest;
	uint32_t past = layout.longest - plan.length;

	if (wc->byte_len != plan.length || !(wc->wc_flags & IBV_WC_WITH_IMM) == plan.immediate ||
	    (plan.immediate && ntohl(wc->imm_data) != (uint32_t)number))
		report_fault("message %llu of queue pair %d has %u bytes instead of %u, or a wrong immediate",
			     (unsigned long long)number, qp, wc->byte_len, plan.length);
	span_check(&span, plan.data, -1, 0, lax || plan.lax ? OR_ZERO : STRICT, "message");
	if (!inbox->guarded || !past)
		return;
	rest = span_part(&inbox->span, plan.length, 1);
	pattern_check(rest.piece[0].at, inbox->guard, plan.length, 1, STRICT, "after a message");
	rest = span_part(&inbox->span, layout.longest - 1, 1);
	pattern_check(rest.piece[0].at, inbox->guard, layout.longest - 1, 1, STRICT, "far after a message");
}

void responder_received(int qp, int index, const struct ibv_wc *wc)
{
	struct responder *own = &responder[qp];
	struct inbox *inbox = &own->inbox[index];
	struct cell *cell = cell_of(qp, USE_RECV, index);
	bool lax = cell_state(cell) == LAX;

	own->posted--;
	cell_own(cell);
	if (wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM)
		noticed(qp, ntohl(wc->imm_data));
	else
		message(qp, inbox, lax, wc);
	/* Some wait for a while, so that they can be mutated, but never too many. */
	if (options.cases && own->posted > layout.recvs / 2 && rng(&own->random) % 4 == 0) {
		inbox->deadline = now_ns() + PATIENCE_NS;
		cell_set(cell, PARKED);
		return;
	}
	post_inbox(qp, index);
}
