// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The verbs objects, and their connection with those of the peer. */
#include "chaos.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ACCESS                                                                                     \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC)
/*
 * ACK time-out (4.096 us * 2^n) and retries until a peer counts as lost: many seconds, since a
 * guest may be slow; where one is expected to die, about one second.
 */
#define PATIENT_TIMEOUT 18
#define TIMEOUT 15
#define RETRIES 7

struct link link_;

static union ibv_gid gid;
static struct ibv_device_attr device;

void connect_open(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	for (int i = 0; list && list[i]; i++)
		if (!strcmp(ibv_get_device_name(list[i]), options.device))
			link_.context = ibv_open_device(list[i]);
	if (!link_.context)
		fail("cannot open the device %s", options.device);
	if (ibv_query_device(link_.context, &device) || ibv_query_gid(link_.context, 1, options.gid_index, &gid))
		fail("cannot query the device %s or its GID %d", options.device, options.gid_index);
	link_.sges = device.max_sge < MAX_PIECES ? device.max_sge : MAX_PIECES;
	link_.pd = ibv_alloc_pd(link_.context);
	if (!link_.pd)
		fail("ibv_alloc_pd: %s", strerror(errno));
}

/* Tells what both must know, and refuses what must be the same and is not. */
static void agree(void)
{
	int reads = device.max_qp_init_rd_atom < device.max_qp_rd_atom ? device.max_qp_init_rd_atom : device.max_qp_rd_atom;
	unsigned long long qps, mib, seed, overcommit, page, races, atomics, holes;
	bool hole = options.cases & 1u << M_HOLE;
	const char *line;

	wire_say(&link_.wire, "hello %d %llu %llu %d %llu %d %d %d\n", options.qps, (unsigned long long)options.buffer_mib,
		    (unsigned long long)options.seed, options.overcommit, (unsigned long long)memory.page,
		    mutate_discards(), reads, hole);
	line = wire_hear(&link_.wire);
	if (!line || sscanf(line, "hello %llu %llu %llu %llu %llu %llu %llu %llu", &qps, &mib, &seed, &overcommit, &page,
			    &races, &atomics, &holes) != 8)
		fail("the peer does not answer");
	if (qps != (unsigned)options.qps || seed != options.seed || overcommit != options.overcommit ||
	    mib != options.buffer_mib)
		fail("the peer has other --qps, --buffer-mib, --seed or --overcommit");
	link_.peer.page = page;
	link_.peer.races = races;
	link_.peer.holes = holes;
	link_.peer.rd_atomic = (unsigned)reads < atomics ? (unsigned)reads : atomics;
}

struct ibv_mr *connect_register(void *at, uint64_t length)
{
	struct ibv_mr *mr = ibv_reg_mr(link_.pd, at, length, ACCESS | (options.on_demand ? IBV_ACCESS_ON_DEMAND : 0));

	if (!mr)
		fail("ibv_reg_mr of %llu bytes: %s", (unsigned long long)length, strerror(errno));
	return mr;
}

struct ibv_qp *connect_make_qp(struct ibv_cq *cq)
{
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = { SQ_DEPTH, 64, link_.sges, link_.sges, 128 },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_qp *qp = ibv_create_qp(link_.pd, &init);

	if (!qp)
		fail("ibv_create_qp: %s", strerror(errno));
	link_.inline_bytes = init.cap.max_inline_data;
	return qp;
}

static void objects(void)
{
	int depth = options.qps * (SQ_DEPTH + 64 + 1);
	size_t words = (size_t)options.qps * (layout.lanes + 1) * 8;

	link_.control = mmap(NULL, words, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (link_.control == MAP_FAILED)
		fail("no memory");
	link_.mr = connect_register(memory.at, memory.length);
	link_.control_mr = connect_register((void *)link_.control, words);
	link_.cq = ibv_create_cq(link_.context, depth, NULL, NULL, 0);
	if (!link_.cq)
		fail("ibv_create_cq of %d: %s", depth, strerror(errno));
	for (int i = 0; i < options.qps; i++)
		link_.qp[i] = connect_make_qp(link_.cq);
}

static void introduce(void)
{
	char line[1024], hex[33];
	const char *heard;
	int length, used;
	struct end *peer = &link_.peer;

	for (int i = 0; i < 16; i++)
		sprintf(hex + 2 * i, "%02x", gid.raw[i]);
	length = sprintf(line, "verbs %llu %u %llu %u %s", (unsigned long long)(uintptr_t)memory.at, link_.mr->rkey,
			 (unsigned long long)(uintptr_t)link_.control, link_.control_mr->rkey, hex);
	for (int i = 0; i < options.qps; i++)
		length += sprintf(line + length, " %u", link_.qp[i]->qp_num);
	wire_say(&link_.wire, "%s\n", line);
	heard = wire_hear(&link_.wire);
	if (!heard || sscanf(heard, "verbs %" SCNu64 " %u %" SCNu64 " %u %32s%n", &peer->buffer, &peer->rkey, &peer->control,
			     &peer->control_rkey, peer->gid, &used) != 5)
		fail("the peer does not introduce itself");
	for (int i = 0; i < options.qps; i++) {
		char *end;

		peer->qpn[i] = strtoul(heard + used, &end, 10);
		used = end - heard;
	}
}

static void modify(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask, const char *what)
{
	errno = ibv_modify_qp(qp, attr, mask | IBV_QP_STATE);
	if (errno)
		fail("a queue pair to %s: %s", what, strerror(errno));
}

void connect_to_init(struct ibv_qp *qp)
{
	struct ibv_qp_attr init = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ACCESS };

	modify(qp, &init, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, "INIT");
}

void connect_to_rts(struct ibv_qp *qp, uint32_t peer)
{
	struct ibv_qp_attr rtr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_1024,
		.dest_qp_num = peer,
		.max_dest_rd_atomic = link_.peer.rd_atomic,
		.min_rnr_timer = 1,
		.ah_attr = { .is_global = 1, .port_num = 1, .grh = { .sgid_index = options.gid_index, .hop_limit = 64 } },
	};
	struct ibv_qp_attr rts = {
		.qp_state = IBV_QPS_RTS,
		.timeout = options.expect_death ? TIMEOUT : PATIENT_TIMEOUT,
		.retry_cnt = RETRIES,
		.rnr_retry = 7,
		.max_rd_atomic = link_.peer.rd_atomic,
	};

	for (int i = 0; i < 16; i++)
		sscanf(link_.peer.gid + 2 * i, "%2hhx", &rtr.ah_attr.grh.dgid.raw[i]);
	modify(qp, &rtr, IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
				 IBV_QP_MIN_RNR_TIMER, "RTR");
	modify(qp, &rts, IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC,
	       "RTS");
}

void connect_verbs(void)
{
	const char *heard;
	uint64_t page;

	agree();
	page = memory.page > link_.peer.page ? memory.page : link_.peer.page;
	/* Cells that consist of pages of 1 GiB would be too few. */
	if (!options.overcommit)
		cells_make(page > 2 << 20 ? PAGE : page);
	objects();
	introduce();
	for (int i = 0; i < options.qps; i++)
		connect_to_init(link_.qp[i]);
	if (!options.overcommit) {
		requester_make();
		responder_make();
		hole_make();
	}
	for (int i = 0; i < options.qps; i++)
		connect_to_rts(link_.qp[i], link_.peer.qpn[i]);
	/* From here on the peer may send. */
	wire_say(&link_.wire, "ready\n");
	heard = wire_hear(&link_.wire);
	if (!heard || strcmp(heard, "ready"))
		fail("the peer is not ready");
}

void connect_to_reset(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RESET };

	modify(qp, &attr, 0, "RESET");
}

void connect_error_state(int qp)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

	modify(link_.qp[qp], &attr, 0, "ERR");
}
