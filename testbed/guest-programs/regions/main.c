// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Asks for memory regions in every way that programs do, and looks whether
 * they do what they should.
 *
 *	vnic-regions DEVICE GID_INDEX CASE
 *
 * Ends with 0 if all is well; otherwise it says what is not. Traffic goes from
 * one queue pair of the program to another one.
 */
#include "regions.h"

struct ibv_context *context;
struct ibv_pd *pd;
static int gid_index;

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "capabilities", capabilities },
	{ "implicit-refused", implicit_refused },
	{ "implicit-works", implicit_works },
	{ "by-iova", by_iova },
	{ "forks", forks },
	{ "dmabuf", dmabuf },
	{ "change", change },
	{ "advise", advise },
	{ "advised-write", advised_write },
	{ "unadvised-write", unadvised_write },
	{ "advise-and-go", advise_and_go },
	{ "on-demand", on_demand },
};

/* Address space that no processor has touched. */
unsigned char *fresh(size_t bytes, int protection)
{
	void *at = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(at != MAP_FAILED, "mmap: %m");
	/* Whole huge pages would come where one page was asked for. */
	CHECK(!madvise(at, bytes, MADV_NOHUGEPAGE), "madvise: %m");
	return at;
}

/* Pages of it that are there. */
size_t resident(const void *at, size_t bytes)
{
	size_t pages = (bytes + PAGE - 1) / PAGE, here = 0;
	unsigned char *map = malloc(pages);

	CHECK(map && !mincore((void *)at, bytes, map), "mincore: %m");
	for (size_t i = 0; i < pages; i++)
		here += map[i] & 1;
	free(map);
	return here;
}

static void to_init(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = ALL,
	};
	int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;

	CHECK(!(errno = ibv_modify_qp(qp, &attr, mask)), "to INIT: %m");
}

static void to_rts(struct ibv_qp *qp, const struct ibv_qp *peer)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_1024,
		.dest_qp_num = peer->qp_num,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = {
			.is_global = 1,
			.port_num = 1,
			.grh = { .sgid_index = gid_index, .hop_limit = 64 },
		},
	};
	int mask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
		   IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;

	CHECK(!ibv_query_gid(context, 1, gid_index, &attr.ah_attr.grh.dgid), "ibv_query_gid: %m");
	CHECK(!(errno = ibv_modify_qp(qp, &attr, mask)), "to RTR: %m");
	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTS,
		.timeout = 16,
		.retry_cnt = 3,
		.rnr_retry = 7,
		.max_rd_atomic = 1,
	};
	mask = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
	       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;
	CHECK(!(errno = ibv_modify_qp(qp, &attr, mask)), "to RTS: %m");
}

/* A WRITE between new queue pairs of a domain; returns its status. */
int write_once(struct ibv_pd *domain, const void *from, uint32_t lkey, uint32_t bytes, uint64_t to,
	       uint32_t rkey)
{
	struct ibv_cq *cq = ibv_create_cq(context, 8, NULL, NULL, 0);
	struct ibv_qp_init_attr attr = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = { .max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_sge sge = { .addr = (uintptr_t)from, .length = bytes, .lkey = lkey };
	struct ibv_send_wr *bad, wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = to, .rkey = rkey },
	};
	struct ibv_qp *qps[2];
	struct ibv_wc wc;
	int count;

	CHECK(cq, "ibv_create_cq: %m");
	for (int i = 0; i < 2; i++) {
		qps[i] = ibv_create_qp(domain, &attr);
		CHECK(qps[i], "ibv_create_qp: %m");
		to_init(qps[i]);
	}
	to_rts(qps[0], qps[1]);
	to_rts(qps[1], qps[0]);
	CHECK(!(errno = ibv_post_send(qps[0], &wr, &bad)), "ibv_post_send: %m");
	while (!(count = ibv_poll_cq(cq, 1, &wc)))
		usleep(200);
	CHECK(count == 1, "ibv_poll_cq: %d", count);
	for (int i = 0; i < 2; i++)
		CHECK(!(errno = ibv_destroy_qp(qps[i])), "ibv_destroy_qp: %m");
	CHECK(!(errno = ibv_destroy_cq(cq)), "ibv_destroy_cq: %m");
	return wc.status;
}

/* The same from the beginning of a region; it must succeed. */
void writes(struct ibv_pd *domain, const struct ibv_mr *from, uint32_t bytes, uint64_t to,
	    uint32_t rkey)
{
	int status = write_once(domain, from->addr, from->lkey, bytes, to, rkey);

	CHECK(status == IBV_WC_SUCCESS, "a WRITE to %#lx: %s", to, ibv_wc_status_str(status));
}

static struct ibv_context *open_named(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	for (int i = 0; list && list[i]; i++)
		if (!strcmp(ibv_get_device_name(list[i]), name))
			return ibv_open_device(list[i]);
	errno = ENODEV;
	return NULL;
}

int main(int argc, char **argv)
{
	CHECK(argc == 4, "a device, the index of a GID, and a case");
	/* Before any other verb, as its manual says. */
	if (!strcmp(argv[3], "forks"))
		CHECK(!(errno = ibv_fork_init()), "ibv_fork_init: %m");
	gid_index = atoi(argv[2]);
	context = open_named(argv[1]);
	CHECK(context, "%s: %m", argv[1]);
	pd = ibv_alloc_pd(context);
	CHECK(pd, "ibv_alloc_pd: %m");
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		if (strcmp(argv[3], cases[i].name))
			continue;
		cases[i].run();
		/* Nothing is left in it. */
		CHECK(!(errno = ibv_dealloc_pd(pd)), "ibv_dealloc_pd: %m");
		CHECK(!(errno = ibv_close_device(context)), "ibv_close_device: %m");
		return 0;
	}
	CHECK(0, "there is no case %s", argv[3]);
}
