// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The loop of the traffic thread, and how it ends. */
#include "chaos.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

/* Without a completion for so long, nothing will come any more. */
#define STALLED_NS 60000000000ull
#define DRAINED_NS 30000000000ull
/* A dead peer has to be noticed within this. */
#define DEATH_NS 40000000000ull

static bool stopping, drained, peer_drained, peer_gone;
static uint64_t peer_messages;

bool traffic_stopping(void)
{
	return stopping;
}

static void hear(void)
{
	const char *line = wire_listen(&link_.wire);
	unsigned long long sent;

	if (!line) {
		peer_gone = true;
	} else if (sscanf(line, "drained %llu", &sent) == 1) {
		peer_drained = true;
		peer_messages = sent;
	}
}

static bool step(void)
{
	bool did = traffic_poll() > 0;

	for (int qp = 0; qp < options.qps; qp++) {
		did |= responder_step(qp);
		did |= requester_step(qp);
	}
	return did;
}

/* Lets other threads run; the longer nothing happens, the longer. */
static void idle(bool did)
{
	static int times;

	times = did ? 0 : times + 1;
	if (times > 200)
		nap_us(200);
	else if (times > 4)
		sched_yield();
}

static bool all_idle(void)
{
	for (int qp = 0; qp < options.qps; qp++)
		if (requester_active(qp))
			return false;
	return true;
}

static bool any_dead(void)
{
	for (int qp = 0; qp < options.qps; qp++)
		if (traffic_dead(qp))
			return true;
	return false;
}

/* Whether both ends have ended their rounds, and all that was said has been heard. */
static bool finished(void)
{
	if (!drained && all_idle()) {
		drained = true;
		wire_say(&link_.wire, "drained %llu\n", (unsigned long long)counts.messages_sent);
	}
	return drained && peer_drained && counts.messages_taken >= peer_messages && !traffic_outstanding();
}

/* After an error or a death: waits for what is outstanding, and asks queue pairs that had nothing. */
static void bury(void)
{
	uint64_t until = now_ns() + DEATH_NS;
	bool asked = false;

	stopping = true;
	while (now_ns() < until) {
		if (!traffic_poll())
			nap_us(200);
		hear();
		report_progress(counts.bytes_moved);
		if (traffic_outstanding())
			continue;
		if (asked || (!peer_gone && !options.expect_death))
			break;
		/* Its requests may fail before the connection breaks that tells of its death. */
		if (!peer_gone)
			continue;
		asked = true;
		for (int qp = 0; qp < options.qps; qp++)
			if (!traffic_dead(qp))
				traffic_post(qp, &(struct post){ .op = OP_ACK, .lane = layout.lanes - 1 });
	}
	for (int qp = 0; qp < options.qps && peer_gone; qp++)
		if (!traffic_dead(qp))
			report_fault("queue pair %d did not notice that the peer died", qp);
	if (traffic_outstanding())
		report_fault("%d requests were not completed", traffic_outstanding());
}

bool traffic_run(void)
{
	uint64_t start = now_ns(), until = start + options.seconds * 1000000000u, moved = start, seen = 0, listened = 0;

	for (;;) {
		uint64_t now = now_ns();

		idle(step());
		if (seen != counts.got)
			seen = counts.got, moved = now;
		if (!stopping && now >= until) {
			/* The rounds that are under way end sooner when nobody disturbs them. */
			stopping = true;
			running = false;
		}
		if (now - listened > 50000000u) {
			listened = now;
			hear();
			report_progress(counts.bytes_moved);
		}
		if (peer_gone || any_dead()) {
			bury();
			break;
		}
		if (stopping && !options.expect_death && finished())
			break;
		if (now - moved > (stopping ? DRAINED_NS : STALLED_NS) || (options.expect_death && now > until + DEATH_NS)) {
			report_fault(options.expect_death ? "the peer did not die" : "nothing completes any more");
			break;
		}
	}
	mutate_stop();
	if (peer_gone || any_dead())
		requester_check_sources();
	else if (counts.messages_taken != peer_messages)
		report_fault("the peer sent %llu messages, but %llu came", (unsigned long long)peer_messages,
			     (unsigned long long)counts.messages_taken);
	/* The peer has to see a whole connection until it has finished, too. */
	if (!peer_gone && !any_dead()) {
		wire_say(&link_.wire, "bye\n");
		wire_hear(&link_.wire);
	}
	traffic_flush();
	return peer_gone;
}
