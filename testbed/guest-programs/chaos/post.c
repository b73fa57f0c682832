// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Requests and completions. Every request is remembered until its completion has come, so that
 * one that never comes is missed, and one that comes twice is noticed.
 */
#include "chaos.h"

#include <arpa/inet.h>
#include <string.h>

#define RECV_BIT (1ull << 63)

static struct queue {
	struct request {
		bool used;
		uint32_t serial;
		enum op op;
		int lane;
		uint32_t bytes;
	} request[SQ_DEPTH], recv[64];
	int used, next, recvs;
	uint32_t serial;
	bool dead;
} queues[MAX_QPS];

/* All queue pairs are being emptied: errors are what is wanted. */
static bool flushing;

bool traffic_dead(int qp)
{
	return queues[qp].dead;
}

int traffic_room(int qp)
{
	/* One element less, for rings that cannot be quite full. */
	return SQ_DEPTH - 1 - queues[qp].used;
}

static struct request *remember(int qp, const struct post *post, uint64_t *id)
{
	struct queue *queue = &queues[qp];
	struct request *request;

	do {
		queue->next = (queue->next + 1) % SQ_DEPTH;
		request = &queue->request[queue->next];
	} while (request->used);
	*request = (struct request){ true, ++queue->serial, post->op, post->lane, 0 };
	queue->used++;
	*id = (uint64_t)qp << 48 | (uint64_t)queue->next << 32 | request->serial;
	return request;
}

static int gather(struct ibv_sge *sge, const struct span *span, uint32_t *bytes)
{
	if (!span)
		return 0;
	for (int i = 0; i < span->count; i++) {
		sge[i] = (struct ibv_sge){ (uintptr_t)span->piece[i].at, span->piece[i].length, link_.mr->lkey };
		*bytes += span->piece[i].length;
	}
	return span->count;
}

void traffic_post(int qp, const struct post *post)
{
	static const enum ibv_wr_opcode opcodes[] = {
		[OP_WRITE] = IBV_WR_RDMA_WRITE, [OP_WRITE_IMM] = IBV_WR_RDMA_WRITE_WITH_IMM,
		[OP_READ] = IBV_WR_RDMA_READ, [OP_SEND] = IBV_WR_SEND, [OP_FETCH_ADD] = IBV_WR_ATOMIC_FETCH_AND_ADD,
		[OP_CMP_SWAP] = IBV_WR_ATOMIC_CMP_AND_SWP, [OP_ACK] = IBV_WR_RDMA_WRITE,
	};
	struct ibv_sge sge[MAX_PIECES];
	struct ibv_send_wr *bad, wr = {
		.opcode = post->op == OP_SEND && post->with_immediate ? IBV_WR_SEND_WITH_IMM : opcodes[post->op],
		.send_flags = IBV_SEND_SIGNALED | (post->inlined ? IBV_SEND_INLINE : 0) | (post->fence ? IBV_SEND_FENCE : 0),
		.imm_data = htonl(post->immediate),
		.sg_list = sge,
		.wr.rdma = { post->remote, post->rkey },
	};
	struct request *request = remember(qp, post, &wr.wr_id);
	int error;

	wr.num_sge = gather(sge, post->span, &request->bytes);
	if (post->op == OP_ACK) {
		sge[0] = (struct ibv_sge){ (uintptr_t)&post->swap, 8, 0 };
		wr.num_sge = 1;
		wr.send_flags |= IBV_SEND_INLINE;
		wr.wr.rdma.remote_addr = link_.peer.control + 8ull * (qp * layout.lanes + post->lane);
		wr.wr.rdma.rkey = link_.peer.control_rkey;
	} else if (post->op == OP_FETCH_ADD || post->op == OP_CMP_SWAP) {
		wr.wr.atomic.remote_addr = post->remote;
		wr.wr.atomic.rkey = post->rkey;
		wr.wr.atomic.compare_add = post->compare_add;
		wr.wr.atomic.swap = post->swap;
	}
	error = ibv_post_send(link_.qp[qp], &wr, &bad);
	if (error) {
		report_fault("ibv_post_send of operation %d on queue pair %d: %s", post->op, qp, strerror(error));
		request->used = false;
		queues[qp].used--;
		queues[qp].dead = true;
		return;
	}
	counts.expected++;
	if (post->op == OP_SEND || (post->op == OP_WRITE_IMM))
		counts.messages_sent++;
}

void traffic_post_recv(int qp, int index, const struct span *span)
{
	struct request *request = &queues[qp].recv[index];
	struct ibv_sge sge[MAX_PIECES];
	struct ibv_recv_wr *bad, wr = { .sg_list = sge };
	int error;

	if (queues[qp].dead)
		return;
	request->bytes = 0;
	wr.num_sge = gather(sge, span, &request->bytes);
	request->used = true;
	request->serial++;
	wr.wr_id = RECV_BIT | (uint64_t)qp << 48 | (uint64_t)index << 32 | request->serial;
	error = ibv_post_recv(link_.qp[qp], &wr, &bad);
	if (error) {
		report_fault("ibv_post_recv on queue pair %d: %s", qp, strerror(error));
		request->used = false;
		return;
	}
	queues[qp].recvs++;
	counts.expected++;
}

static bool lose_this(const struct request *request)
{
	static uint64_t count;

	return options.corrupt == CORRUPT_COMPLETION && request->op == OP_ACK && ++count == options.corrupt_after;
}

static void take(const struct ibv_wc *wc)
{
	bool recv = wc->wr_id & RECV_BIT, good = wc->status == IBV_WC_SUCCESS;
	int qp = wc->wr_id >> 48 & 0x7fff, index = wc->wr_id >> 32 & 0xffff;
	struct queue *queue = &queues[qp < MAX_QPS ? qp : 0];
	struct request *request = recv ? &queue->recv[index % 64] : &queue->request[index % SQ_DEPTH];

	if (qp >= options.qps || index >= (recv ? 64 : SQ_DEPTH) || !request->used || request->serial != (uint32_t)wc->wr_id) {
		counts.spurious++;
		report_fault("a completion that belongs to no request: %016llx", (unsigned long long)wc->wr_id);
		return;
	}
	if (!recv && lose_this(request))
		return;
	request->used = false;
	counts.got++;
	if (!good && !flushing) {
		counts.errors[wc->status & 31]++;
		counts.error_count++;
		queue->dead = true;
	}
	if (recv) {
		queue->recvs--;
		if (!good)
			return;
		counts.messages_taken++;
		counts.recv++;
		responder_received(qp, index, wc);
		return;
	}
	queue->used--;
	if (good) {
		counts.ops[request->op]++;
		counts.bytes_moved += request->bytes;
	}
	if (options.overcommit)
		overcommit_completed(request->lane, good);
	else
		requester_completed(qp, request->lane, request->op, good);
}

int traffic_poll(void)
{
	struct ibv_wc wc[16];
	int count = ibv_poll_cq(link_.cq, 16, wc);

	if (count < 0)
		fail("ibv_poll_cq: %d", count);
	for (int i = 0; i < count; i++)
		take(&wc[i]);
	return count;
}

int traffic_outstanding(void)
{
	int sum = 0;

	for (int i = 0; i < options.qps; i++)
		sum += queues[i].used;
	return sum;
}

void traffic_flush(void)
{
	uint64_t until = now_ns() + 20000000000u;
	int left;

	flushing = true;
	for (int i = 0; i < options.qps; i++)
		connect_error_state(i);
	do {
		if (!traffic_poll())
			nap_us(200);
		left = traffic_outstanding();
		for (int i = 0; i < options.qps; i++)
			left += queues[i].recvs;
	} while (left && now_ns() < until);
	counts.lost = left;
}
