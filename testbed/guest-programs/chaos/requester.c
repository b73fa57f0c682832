// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Rounds. A lane of this end fills its source, and writes it to the cell of its number at the
 * peer. Then either the peer checks it, replaces it and this end reads the replacement; or this
 * end reads back what it wrote, and the peer checks it afterwards. In between, messages.
 */
#include "chaos.h"

#include <stdlib.h>
#include <string.h>

enum step { IDLE, SENDING, FORWARD, AWAIT_REPLY, READING, CHAIN, FINISHING };

struct lane {
	enum step step;
	int pending;
	bool failed;
	uint64_t seq;
	struct plan plan;
	struct send_plan send;
	struct span source, sink;
};

static struct requester {
	struct lane *lane;
	uint64_t random, sent;
	int next, count;
	int active[ACTIVE];
} requester[MAX_QPS];

void requester_make(void)
{
	for (int i = 0; i < options.qps; i++) {
		requester[i].random = mix(options.seed + 1000 * link_.me + i + 1);
		requester[i].lane = calloc(layout.lanes, sizeof(struct lane));
		if (!requester[i].lane)
			fail("no memory for lanes");
	}
}

static void post(int qp, struct lane *lane, struct post what)
{
	what.lane = lane - requester[qp].lane;
	lane->pending++;
	traffic_post(qp, &what);
}

static uint64_t remote(int qp, const struct lane *lane, uint64_t offset)
{
	return link_.peer.buffer + cell_offset(cell_of(qp, USE_IN, lane - requester[qp].lane)) + offset;
}

static uint32_t notice(int qp, const struct lane *lane, enum notice what)
{
	return (uint32_t)(lane - requester[qp].lane) << 19 | what << 17 | (lane->seq & 0x1ffff);
}

static void notify(int qp, struct lane *lane, enum notice what, bool fence)
{
	post(qp, lane, (struct post){ .op = OP_WRITE_IMM, .remote = remote(qp, lane, 0), .rkey = link_.peer.rkey,
				      .immediate = notice(qp, lane, what), .with_immediate = true, .fence = fence });
}

static uint8_t *result_of(int qp, const struct lane *lane, int which)
{
	return cell_of(qp, USE_SINK, lane - requester[qp].lane)->at + 8 * which;
}

static void post_atomics(int qp, struct lane *lane)
{
	struct plan *plan = &lane->plan;
	struct span result = { .count = 1, .piece = { { .length = 8 } } };
	struct post what = { .op = OP_FETCH_ADD, .span = &result, .rkey = link_.peer.rkey, .compare_add = plan->add };

	if (plan->word < 0)
		return;
	what.remote = remote(qp, lane, plan->offset + plan->word);
	result.piece[0].at = result_of(qp, lane, 0);
	memset(result.piece[0].at, 0xee, 16);
	post(qp, lane, what);
	result.piece[0].at += 8;
	what.op = OP_CMP_SWAP;
	what.compare_add = plan->match ? plan->between : ~plan->between;
	what.swap = plan->swap;
	post(qp, lane, what);
}

static void post_read(int qp, struct lane *lane)
{
	post(qp, lane, (struct post){ .op = OP_READ, .span = &lane->sink, .rkey = link_.peer.rkey,
				      .remote = remote(qp, lane, lane->plan.offset) });
}

static struct pattern sink_guard(int qp, const struct lane *lane)
{
	return pattern_of(PHASE_GUARD, link_.me, qp, (lane - requester[qp].lane) | 0x1000, lane->seq);
}

static void corrupt_source(const struct span *span)
{
	static uint64_t count;

	if (options.corrupt == CORRUPT_SOURCE && ++count == options.corrupt_after)
		span->piece[0].at[span->piece[0].length / 2] ^= 0x55;
}

static void start_send(int qp, struct lane *lane, struct cell *source)
{
	uint64_t number = requester[qp].sent++;

	lane->send = plan_send(link_.me, qp, number);
	lane->source = span_in(source, lane->send.length, &requester[qp].random);
	span_fill(&lane->source, lane->send.data);
	corrupt_source(&lane->source);
	cell_set(source, lane->send.lax && mutate_discards() ? LAX : READ_ONLY);
	lane->step = SENDING;
	post(qp, lane, (struct post){ .op = OP_SEND, .span = &lane->source, .immediate = number,
				      .with_immediate = lane->send.immediate,
				      .inlined = lane->send.length <= link_.inline_bytes && number % 2 });
}

static void start_round(int qp, struct lane *lane, struct cell *source, struct cell *sink)
{
	struct plan *plan = &lane->plan;
	struct post write = { .op = OP_WRITE, .span = &lane->source, .rkey = link_.peer.rkey };
	bool lax;

	*plan = plan_round(link_.me, qp, lane - requester[qp].lane, lane->seq);
	lax = plan->lax && mutate_discards();
	lane->source = span_in(source, plan->length, &requester[qp].random);
	lane->sink = span_in(sink, plan->length, &requester[qp].random);
	span_fill(&lane->source, plan->data);
	corrupt_source(&lane->source);
	if (plan->guards)
		guards_fill(&lane->sink, sink_guard(qp, lane));
	cell_set(source, lax ? LAX : READ_ONLY);
	cell_set(sink, lax ? LAX : WRITABLE);
	write.remote = remote(qp, lane, plan->offset);
	write.inlined = plan->inlined;
	lane->step = plan->flavour == FLAVOUR_CHAIN ? CHAIN : FORWARD;
	if (plan->flavour == FLAVOUR_ECHO_IMM) {
		write.op = OP_WRITE_IMM;
		write.with_immediate = true;
		write.immediate = notice(qp, lane, NOTICE_CHECK_AND_REPLY);
	}
	post(qp, lane, write);
	post_atomics(qp, lane);
	if (plan->flavour == FLAVOUR_ECHO)
		notify(qp, lane, NOTICE_CHECK_AND_REPLY, false);
	if (plan->flavour == FLAVOUR_CHAIN) {
		post_read(qp, lane);
		/* The peer may replace its memory then: not before the READ has its bytes. */
		notify(qp, lane, NOTICE_CHECK, true);
	}
}

static uint64_t allowed(int qp, int lane)
{
	return atomic_load_explicit(&link_.control[qp * layout.lanes + lane], memory_order_acquire);
}

/* Begins something on the next lane, if it is free. */
static bool begin(int qp)
{
	struct requester *own = &requester[qp];
	int index = own->next++ % layout.lanes;
	struct lane *lane = &own->lane[index];
	struct cell *source = cell_of(qp, USE_SOURCE, index), *sink = cell_of(qp, USE_SINK, index);
	bool send = rng(&own->random) % 4 == 0;

	if (lane->step != IDLE || (!send && allowed(qp, index) != 2 * lane->seq) || !cell_try_own(source))
		return false;
	if (!send && !cell_try_own(sink)) {
		cell_set(source, PARKED);
		return false;
	}
	own->active[own->count++] = index;
	if (send)
		start_send(qp, lane, source);
	else
		start_round(qp, lane, source, sink);
	return true;
}

static void check_result(int qp, const struct lane *lane, int which, uint64_t expected)
{
	uint64_t found;

	memcpy(&found, result_of(qp, lane, which), 8);
	counts.bytes_checked += 8;
	if (found != expected) {
		report_wrong(which ? "result of CMP_SWAP" : "result of FETCH_ADD", result_of(qp, lane, which), 0, expected, found);
		counts.wrong_bytes += 8;
	}
}

static void check_sink(int qp, struct lane *lane)
{
	struct plan *plan = &lane->plan;
	enum strictness strictness = plan->lax ? OR_ZERO : STRICT;
	bool chain = plan->flavour == FLAVOUR_CHAIN;

	cell_own(cell_of(qp, USE_SINK, lane - requester[qp].lane));
	span_check(&lane->sink, chain ? plan->data : plan->reply, chain ? plan->word : -1, plan->after, strictness,
		   chain ? "READ back" : "READ of the reply");
	if (plan->guards)
		guards_check(&lane->sink, sink_guard(qp, lane), strictness, "around a READ");
	if (plan->word >= 0) {
		check_result(qp, lane, 0, plan->before);
		check_result(qp, lane, 1, plan->between);
	}
}

static void end(int qp, int slot)
{
	struct requester *own = &requester[qp];
	int index = own->active[slot];
	struct lane *lane = &own->lane[index];
	struct cell *source = cell_of(qp, USE_SOURCE, index), *sink = cell_of(qp, USE_SINK, index);

	cell_own(source);
	cell_set(source, PARKED);
	if (lane->step != SENDING) {
		cell_own(sink);
		cell_set(sink, PARKED);
		lane->seq++;
	}
	counts.rounds++;
	lane->step = IDLE;
	own->active[slot] = own->active[--own->count];
}

/* Goes on with a lane that waits for nothing that was posted. */
static bool proceed(int qp, int slot)
{
	int index = requester[qp].active[slot];
	struct lane *lane = &requester[qp].lane[index];

	switch (lane->step) {
	case FORWARD:
		lane->step = AWAIT_REPLY;
		/* fall through */
	case AWAIT_REPLY:
		if (allowed(qp, index) != 2 * lane->seq + 1 || traffic_room(qp) < 1)
			return false;
		lane->step = READING;
		post_read(qp, lane);
		return true;
	case READING:
		if (traffic_room(qp) < 1)
			return false;
		check_sink(qp, lane);
		lane->step = FINISHING;
		notify(qp, lane, NOTICE_DONE, false);
		return true;
	case CHAIN:
		check_sink(qp, lane);
		/* fall through */
	default:
		end(qp, slot);
		return true;
	}
}

bool requester_step(int qp)
{
	struct requester *own = &requester[qp];
	bool did = false;

	if (traffic_dead(qp))
		return false;
	for (int slot = 0; slot < own->count; slot++)
		if (!own->lane[own->active[slot]].pending)
			did |= proceed(qp, slot);
	for (int tries = 0; tries < 4 && own->count < ACTIVE && !traffic_stopping() && traffic_room(qp) >= 24; tries++)
		did |= begin(qp);
	return did;
}

void requester_completed(int qp, int lane, enum op op, bool good)
{
	if (op == OP_ACK)
		return;
	requester[qp].lane[lane].pending--;
	requester[qp].lane[lane].failed |= !good;
}

int requester_active(int qp)
{
	return requester[qp].count;
}

/* What was being sent when the peer died must not have changed. */
void requester_check_sources(void)
{
	for (int qp = 0; qp < options.qps; qp++) {
		for (int slot = 0; slot < requester[qp].count; slot++) {
			struct lane *lane = &requester[qp].lane[requester[qp].active[slot]];
			bool send = lane->step == SENDING;
			bool lax = (send ? lane->send.lax : lane->plan.lax) && mutate_discards();

			span_check(&lane->source, send ? lane->send.data : lane->plan.data, -1, 0,
				   lax ? OR_ZERO : STRICT, "source of what failed");
		}
	}
}
