// SPDX-License-Identifier: Apache-2.0 OR MIT
/* What may be registered, and how. */
#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/rdma_user_ioctl.h>
#include <rdma/rdma_user_ioctl_cmds.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "regions.h"

#define BYTES 100000

static struct ibv_mr *source(unsigned char seed)
{
	unsigned char *at = fresh(BYTES, PROT_READ | PROT_WRITE);
	struct ibv_mr *mr;

	memset(at, seed, BYTES);
	mr = ibv_reg_mr(pd, at, BYTES, IBV_ACCESS_LOCAL_WRITE);
	CHECK(mr, "ibv_reg_mr: %m");
	return mr;
}

static void gone(struct ibv_mr *mr)
{
	CHECK(!(errno = ibv_dereg_mr(mr)), "ibv_dereg_mr: %m");
}

static void holds(const unsigned char *at, unsigned char seed, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		CHECK(at[i] == seed, "byte %zu is %d, not %d", i, at[i], seed);
}

/* capabilities: tells what the device says of itself. */
void capabilities(void)
{
	struct ibv_device_attr_ex attr = {};

	CHECK(!(errno = ibv_query_device_ex(context, NULL, &attr)), "ibv_query_device_ex: %m");
	printf("general=%#lx rc=%#x uc=%#x ud=%#x size=%#lx\n", attr.odp_caps.general_caps,
	       attr.odp_caps.per_transport_caps.rc_odp_caps,
	       attr.odp_caps.per_transport_caps.uc_odp_caps,
	       attr.odp_caps.per_transport_caps.ud_odp_caps, attr.orig_attr.max_mr_size);
}

/* implicit-refused: neither everything nor nearly so, but a lot. */
void implicit_refused(void)
{
	int on_demand = ALL | IBV_ACCESS_ON_DEMAND;
	struct ibv_mr *mr;

	FAILS(ibv_reg_mr(pd, NULL, SIZE_MAX, on_demand), EOPNOTSUPP);
	FAILS(ibv_reg_mr(pd, NULL, SIZE_MAX, ALL), EINVAL);
	FAILS(ibv_reg_mr(pd, NULL, SIZE_MAX - 1, on_demand), EINVAL);
	FAILS(ibv_reg_mr(pd, (void *)PAGE, (1ul << 47) - 2 * PAGE, on_demand), EINVAL);
	FAILS(ibv_reg_mr(pd, (void *)PAGE, (1ul << 44) + 1, on_demand), EINVAL);
	mr = ibv_reg_mr(pd, (void *)PAGE, 1ul << 44, on_demand);
	CHECK(mr, "16 TiB: %m");
	errno = 0;
	CHECK(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, pd, (void *)PAGE, (1ul << 44) + 1,
			   0) == IBV_REREG_MR_ERR_CMD,
	      "a change to more than 16 TiB succeeds");
	gone(mr);
}

/* implicit-works: one region for all that there is and will be. */
void implicit_works(void)
{
	/* Where nothing is mapped, where nothing can be, and the kernel's half. */
	static const uint64_t nowhere[] = { 1ul << 16, 1ul << 47, ~0ul << 47 };
	struct ibv_mr *all, *from = source(7);
	unsigned char *to, *hole;
	int status;

	FAILS(ibv_reg_mr(pd, NULL, SIZE_MAX, ALL), EINVAL);
	FAILS(ibv_reg_mr(pd, (void *)PAGE, SIZE_MAX, ALL | IBV_ACCESS_ON_DEMAND), EINVAL);
	all = ibv_reg_mr(pd, NULL, SIZE_MAX, ALL | IBV_ACCESS_ON_DEMAND);
	CHECK(all, "ibv_reg_mr: %m");
	/* Memory that came after it, which nobody has touched. */
	to = fresh(BYTES + PAGE, PROT_READ | PROT_WRITE);
	CHECK(!resident(to, BYTES + PAGE), "it was touched");
	status = write_once(pd, from->addr, all->lkey, BYTES, (uintptr_t)to + 10, all->rkey);
	CHECK(status == IBV_WC_SUCCESS, "a WRITE: %s", ibv_wc_status_str(status));
	holds(to + 10, 7, BYTES);
	holds(to, 0, 10);
	/* On the stack, and in the program itself. */
	unsigned char local[64] = {};
	static unsigned char global[64];
	writes(pd, from, sizeof(local), (uintptr_t)local, all->rkey);
	writes(pd, from, sizeof(global), (uintptr_t)global, all->rkey);
	holds(local, 7, sizeof(local));
	holds(global, 7, sizeof(global));
	/* No more than the process itself can do. */
	hole = fresh(PAGE, PROT_READ);
	status = write_once(pd, from->addr, from->lkey, 64, (uintptr_t)hole, all->rkey);
	CHECK(status == IBV_WC_REM_ACCESS_ERR, "read-only: %s", ibv_wc_status_str(status));
	CHECK(!munmap(hole, PAGE), "munmap: %m");
	for (size_t i = 0; i < sizeof(nowhere) / sizeof(*nowhere); i++) {
		status = write_once(pd, from->addr, from->lkey, 64, nowhere[i], all->rkey);
		CHECK(status == IBV_WC_REM_ACCESS_ERR, "%#lx: %s", nowhere[i],
		      ibv_wc_status_str(status));
	}
	gone(all);
	gone(from);
}

/* by-iova: requests name the memory by an address of the program's choice. */
void by_iova(void)
{
	uint64_t iova = 0x123450000;
	unsigned char *to = fresh(BYTES, PROT_READ | PROT_WRITE);
	struct ibv_mr *from = source(9), *mr;

	mr = ibv_reg_mr_iova2(pd, to, BYTES, iova, ALL | IBV_ACCESS_RELAXED_ORDERING);
	CHECK(mr, "ibv_reg_mr_iova2: %m");
	writes(pd, from, BYTES - 77, iova + 77, mr->rkey);
	holds(to + 77, 9, BYTES - 77);
	gone(mr);
	mr = ibv_reg_mr(pd, to, BYTES, ALL | IBV_ACCESS_ZERO_BASED);
	CHECK(mr, "zero-based: %m");
	memset(to, 0, BYTES);
	writes(pd, from, BYTES - 78, 78, mr->rkey);
	holds(to + 78, 9, BYTES - 78);
	gone(mr);
	gone(from);
}

/* forks: a child is as good as without RDMA, and traffic goes on in the parent. */
void forks(void)
{
	struct ibv_mr *from = source(1), *mr;
	unsigned char *to = fresh(BYTES, PROT_READ | PROT_WRITE);
	int status;
	pid_t child;

	memset(to, 5, BYTES);
	mr = ibv_reg_mr(pd, to, BYTES, ALL);
	CHECK(mr, "ibv_reg_mr: %m");
	for (int round = 0; round < 20; round++) {
		unsigned char other = 100 + round;

		memset(from->addr, round, BYTES);
		child = fork();
		CHECK(child >= 0, "fork: %m");
		if (!child) {
			unsigned char *own = malloc(BYTES);

			memset(own, other, BYTES);
			holds(own, other, BYTES);
			_exit(0);
		}
		/* Both sides of it were shared with the child a moment ago. */
		writes(pd, from, BYTES, (uintptr_t)to, mr->rkey);
		holds(to, round, BYTES);
		CHECK(waitpid(child, &status, 0) == child && !status, "the child: %#x", status);
	}
	gone(mr);
	gone(from);
}

/* Asks the kernel itself, past what the library would answer. */
static int ask_for_dmabuf(int fd)
{
	struct {
		struct ib_uverbs_ioctl_hdr head;
		struct ib_uverbs_attr attr[8];
	} cmd = {
		.head = {
			.length = sizeof(cmd),
			.object_id = UVERBS_OBJECT_MR,
			.method_id = UVERBS_METHOD_REG_DMABUF_MR,
			.num_attrs = 8,
			.driver_id = RDMA_DRIVER_UNKNOWN,
		},
	};
	uint32_t lkey, rkey;
	struct ib_uverbs_attr attr[] = {
		{ UVERBS_ATTR_REG_DMABUF_MR_HANDLE, 0, UVERBS_ATTR_F_MANDATORY, {}, {} },
		{ UVERBS_ATTR_REG_DMABUF_MR_PD_HANDLE, 0, UVERBS_ATTR_F_MANDATORY, {},
		  { pd->handle } },
		{ UVERBS_ATTR_REG_DMABUF_MR_OFFSET, 8, UVERBS_ATTR_F_MANDATORY, {}, { 0 } },
		{ UVERBS_ATTR_REG_DMABUF_MR_LENGTH, 8, UVERBS_ATTR_F_MANDATORY, {}, { PAGE } },
		{ UVERBS_ATTR_REG_DMABUF_MR_IOVA, 8, UVERBS_ATTR_F_MANDATORY, {}, { 0 } },
		{ UVERBS_ATTR_REG_DMABUF_MR_FD, 4, UVERBS_ATTR_F_MANDATORY, {}, { fd } },
		{ UVERBS_ATTR_REG_DMABUF_MR_RESP_LKEY, 4, UVERBS_ATTR_F_MANDATORY, {},
		  { (uintptr_t)&lkey } },
		{ UVERBS_ATTR_REG_DMABUF_MR_RESP_RKEY, 4, UVERBS_ATTR_F_MANDATORY, {},
		  { (uintptr_t)&rkey } },
	};

	memcpy(cmd.attr, attr, sizeof(attr));
	return ioctl(context->cmd_fd, RDMA_VERBS_IOCTL, &cmd);
}

/* dmabuf: refused by the library, and by the kernel. */
void dmabuf(void)
{
	int fd = memfd_create("memory", 0);

	CHECK(fd >= 0 && !ftruncate(fd, PAGE), "memfd_create: %m");
	FAILS(ibv_reg_dmabuf_mr(pd, 0, PAGE, 0, fd, ALL), EOPNOTSUPP);
	FAILS(!ask_for_dmabuf(fd), EOPNOTSUPP);
	close(fd);
}
