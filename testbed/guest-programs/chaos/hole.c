// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Transfers that must fail: a queue pair of its own whose memory has a hole, on one side or the
 * other, fails with the status that verbs have for it; then the hole is filled, the queue pair is
 * connected again, and everything arrives. The others' traffic must not notice any of it.
 *
 * The two ends speak over a wire of their own. The end that connects decides what happens.
 */
#include "chaos.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define BYTES (16 * PAGE)
#define HOLE_AT (4 * PAGE)
#define HOLE_BYTES (8 * PAGE)
#define PATIENCE_NS 40000000000ull

enum attempt { REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC, REMOTE_SEND, LOCAL_WRITE, LOCAL_READ, ATTEMPTS };

static struct wire wire;
static struct ibv_cq *cq;
static struct ibv_qp *qp;
static struct ibv_mr *mr;
static uint8_t *area;
static uint64_t peer_area;
static uint32_t peer_rkey, peer_qpn;
static bool wanted, locked;
static pthread_t thread;

void hole_make(void)
{
	const char *line;

	wanted = options.cases & 1u << M_HOLE && link_.peer.holes;
	if (options.cases & 1u << M_HOLE && !wanted) {
		if (!options.all)
			fail("hole is for both ends or none");
		options.cases &= ~(1u << M_HOLE);
	}
	if (!wanted)
		return;
	/* Nothing else lies next to it. */
	area = memory_reserve(BYTES + 2 * PAGE) + PAGE;
	if (mprotect(area, BYTES, PROT_READ | PROT_WRITE))
		fail("no memory");
	mr = connect_register(area, BYTES);
	cq = ibv_create_cq(link_.context, 256, NULL, NULL, 0);
	if (!cq)
		fail("ibv_create_cq");
	qp = connect_make_qp(cq);
	wire_open(&wire);
	wire_say(&wire, "area %" PRIu64 " %u %u\n", (uint64_t)(uintptr_t)area, mr->rkey, qp->qp_num);
	line = wire_hear(&wire);
	if (!line || sscanf(line, "area %" SCNu64 " %u %u", &peer_area, &peer_rkey, &peer_qpn) != 3)
		fail("the peer does not tell of its hole");
	connect_to_init(qp);
	connect_to_rts(qp, peer_qpn);
}

/* Either nothing is mapped there, or something that nobody may use. */
static void dig(bool unmap)
{
	if (unmap) {
		mapping_lock();
		locked = true;
		if (munmap(area + HOLE_AT, HOLE_BYTES))
			fail("cannot make a hole");
		return;
	}
	if (mmap(area + HOLE_AT, HOLE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail("cannot make a hole");
}

static void fill_up(void)
{
	if (mmap(area + HOLE_AT, HOLE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail("cannot fill a hole");
	if (locked)
		mapping_unlock();
	locked = false;
}

static void reconnect(void)
{
	connect_to_reset(qp);
	connect_to_init(qp);
	connect_to_rts(qp, peer_qpn);
}

static void post(enum ibv_wr_opcode opcode, uint64_t offset, uint32_t length)
{
	struct ibv_sge sge = { (uintptr_t)area + offset, length, mr->lkey };
	struct ibv_send_wr *bad, wr = {
		.opcode = opcode,
		.send_flags = IBV_SEND_SIGNALED,
		.sg_list = &sge,
		.num_sge = 1,
		.wr.rdma = { peer_area + offset, peer_rkey },
	};

	if (opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
		wr.wr.atomic.remote_addr = peer_area + HOLE_AT + 8;
		wr.wr.atomic.rkey = peer_rkey;
		wr.wr.atomic.compare_add = 1;
	}
	if (ibv_post_send(qp, &wr, &bad))
		report_fault("ibv_post_send beside a hole");
}

static void post_recv(void)
{
	struct ibv_sge sge = { (uintptr_t)area, BYTES, mr->lkey };
	struct ibv_recv_wr *bad, wr = { .sg_list = &sge, .num_sge = 1 };

	if (ibv_post_recv(qp, &wr, &bad))
		report_fault("ibv_post_recv beside a hole");
}

/* The status of the next completion, or -1. */
static int completion(void)
{
	uint64_t until = now_ns() + PATIENCE_NS;
	struct ibv_wc wc;

	while (now_ns() < until) {
		if (ibv_poll_cq(cq, 1, &wc) == 1)
			return wc.status;
		nap_us(500);
	}
	return -1;
}

static void expect(const char *what, int status, int one, int other)
{
	if (status != one && status != other)
		report_fault("%s: a transfer with a hole ended with status %d", what, status);
}

static bool say_and_hear(const char *say, enum attempt attempt, bool unmap, const char *hear)
{
	const char *line;

	wire_say(&wire, "%s %d %d\n", say, attempt, unmap);
	line = wire_hear(&wire);
	return line && !strcmp(line, hear);
}

static void try_in_vain(enum attempt attempt)
{
	switch (attempt) {
	case REMOTE_WRITE:
		/* From before the hole to behind it; of the own area only what is there. */
		post(IBV_WR_RDMA_WRITE, 1, BYTES - 2);
		break;
	case REMOTE_READ:
	case LOCAL_READ:
		post(IBV_WR_RDMA_READ, 1, BYTES - 2);
		break;
	case REMOTE_ATOMIC:
		post(IBV_WR_ATOMIC_FETCH_AND_ADD, 0, 8);
		break;
	case REMOTE_SEND:
		post(IBV_WR_SEND, 0, BYTES);
		break;
	default:
		post(IBV_WR_RDMA_WRITE, 3, BYTES - 7);
	}
	if (attempt == LOCAL_WRITE || attempt == LOCAL_READ)
		expect("local", completion(), IBV_WC_LOC_PROT_ERR, IBV_WC_LOC_PROT_ERR);
	else
		expect("remote", completion(), IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_OP_ERR);
}

/* Once the hole is filled, everything arrives. */
static void try_again(uint64_t round)
{
	struct pattern pattern = pattern_of(PHASE_DATA, link_.me, 0, 0x1fff, round);

	pattern_fill(area, pattern, 0, BYTES);
	post(IBV_WR_RDMA_WRITE, 0, BYTES);
	expect("after it was filled", completion(), IBV_WC_SUCCESS, IBV_WC_SUCCESS);
	memset(area, 0xee, BYTES);
	post(IBV_WR_RDMA_READ, 0, BYTES);
	expect("after it was filled", completion(), IBV_WC_SUCCESS, IBV_WC_SUCCESS);
	pattern_check(area, pattern, 0, BYTES, STRICT, "where a hole was");
}

static void *decide(void *unused)
{
	uint64_t random = mix(options.seed + 4711);

	(void)unused;
	for (uint64_t round = 0; running; round++) {
		enum attempt attempt = round % ATTEMPTS;
		bool unmap = rng(&random) % 2, local = attempt == LOCAL_WRITE || attempt == LOCAL_READ;

		if (!say_and_hear("dig", attempt, unmap, "dug"))
			break;
		if (local)
			dig(unmap);
		try_in_vain(attempt);
		if (local)
			fill_up();
		if (!say_and_hear("fill", attempt, unmap, "filled"))
			break;
		reconnect();
		try_again(round);
		mutators[M_HOLE].done++;
		nap_us(50000);
	}
	wire_say(&wire, "end\n");
	return NULL;
}

static void *follow(void *unused)
{
	const char *line;
	int attempt, unmap;

	(void)unused;
	while ((line = wire_hear(&wire))) {
		if (sscanf(line, "dig %d %d", &attempt, &unmap) == 2) {
			if (attempt == REMOTE_SEND)
				post_recv();
			if (attempt < LOCAL_WRITE)
				dig(unmap);
			wire_say(&wire, "dug\n");
		} else if (sscanf(line, "fill %d %d", &attempt, &unmap) == 2) {
			if (attempt == REMOTE_SEND)
				expect("message", completion(), IBV_WC_LOC_PROT_ERR, IBV_WC_LOC_PROT_ERR);
			if (attempt < LOCAL_WRITE)
				fill_up();
			reconnect();
			mutators[M_HOLE].done++;
			wire_say(&wire, "filled\n");
		} else {
			break;
		}
	}
	if (locked)
		fill_up();
	return NULL;
}

void hole_start(void)
{
	if (wanted && pthread_create(&thread, NULL, link_.me ? decide : follow, NULL))
		fail("no thread");
}

void hole_stop(void)
{
	if (wanted)
		pthread_join(thread, NULL);
}
