// SPDX-License-Identifier: Apache-2.0 OR MIT
/* A device, and a queue pair that is its own peer. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"

#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

struct device device_open(const char *name, int gid_index)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct device device = { .gid_index = gid_index };

	for (int i = 0; list && list[i]; i++)
		if (!strcmp(ibv_get_device_name(list[i]), name))
			device.context = ibv_open_device(list[i]);
	if (!device.context)
		fail(name);
	device.pd = ibv_alloc_pd(device.context);
	if (!device.pd)
		fail("ibv_alloc_pd");
	return device;
}

static void modify(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	errno = ibv_modify_qp(qp, attr, mask);
	if (errno)
		fail("ibv_modify_qp");
}

void device_connect(struct device *device)
{
	struct ibv_qp_attr init = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = ACCESS,
	}, rtr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_1024,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = {
			.is_global = 1,
			.port_num = 1,
			.grh = { .sgid_index = device->gid_index, .hop_limit = 64 },
		},
	}, rts = {
		.qp_state = IBV_QPS_RTS,
		.timeout = 18,
		.retry_cnt = 7,
		.rnr_retry = 7,
		.max_rd_atomic = 1,
	};
	struct ibv_qp_init_attr how = {
		.cap = { .max_send_wr = DEPTH, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};

	device->cq = ibv_create_cq(device->context, 2 * DEPTH, NULL, NULL, 0);
	if (!device->cq)
		fail("ibv_create_cq");
	how.send_cq = how.recv_cq = device->cq;
	device->qp = ibv_create_qp(device->pd, &how);
	if (!device->qp)
		fail("ibv_create_qp");
	rtr.dest_qp_num = device->qp->qp_num;
	if (ibv_query_gid(device->context, 1, device->gid_index, &rtr.ah_attr.grh.dgid))
		fail("ibv_query_gid");
	modify(device->qp, &init,
	       IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	modify(device->qp, &rtr,
	       IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
		       IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	modify(device->qp, &rts,
	       IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
		       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

/* NULL with errno, since a refusal is a result. */
struct ibv_mr *device_register(struct device *device, uint8_t *at, uint64_t length)
{
	return ibv_reg_mr(device->pd, at, length, ACCESS);
}

void device_write(struct device *device, struct ibv_mr *from, struct ibv_mr *to, uint64_t offset,
		  uint32_t length)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)from->addr,
		.length = length,
		.lkey = from->lkey,
	};
	struct ibv_send_wr *bad, wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = (uintptr_t)to->addr + offset, .rkey = to->rkey },
	};

	errno = ibv_post_send(device->qp, &wr, &bad);
	if (errno)
		fail("ibv_post_send");
}

void device_wait(struct device *device)
{
	struct ibv_wc wc;
	int found;

	do
		found = ibv_poll_cq(device->cq, 1, &wc);
	while (!found);
	if (found < 0 || wc.status) {
		fprintf(stderr, "a WRITE completed with %s\n", ibv_wc_status_str(wc.status));
		errno = EIO;
		fail("ibv_poll_cq");
	}
}
