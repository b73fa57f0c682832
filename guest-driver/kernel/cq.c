// SPDX-License-Identifier: GPL-2.0
/*
 * Completion queues. Polling and arming are done by the process in the shared
 * pages; this creates them and receives their events.
 */
#include <linux/log2.h>
#include <rdma/uverbs_ioctl.h>

#include "vnic.h"

static u32 vnic_cq_pages(u32 depth)
{
	return DIV_ROUND_UP_ULL(VNIC_CQ_RING_OFFSET + (u64)depth * VNIC_CQE_SIZE,
				PAGE_SIZE);
}

static int vnic_cq_tell(struct vnic_dev *dev, struct vnic_cq *cq,
			struct vnic_ctx *ctx, u32 depth)
{
	struct vnic_cmd_cq_create body = {
		.ctx = cpu_to_le32(ctx->handle),
		.depth = cpu_to_le32(depth),
		.cookie = cpu_to_le64(cq->cookie),
	};
	struct vnic_reply_handle reply;
	__le64 *list;
	int err;

	list = vnic_mem_list(cq->mem, &body.pages);
	if (!list)
		return -ENOMEM;
	err = vnic_cmd_list(dev, VNIC_CMD_CQ_CREATE, &body, sizeof(body),
			    &reply, sizeof(reply), list);
	if (!err)
		cq->handle = le32_to_cpu(reply.handle);
	return err;
}

int vnic_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
		   struct uverbs_attr_bundle *attrs)
{
	struct vnic_dev *dev = to_vdev(ibcq->device);
	struct vnic_uverbs_cq_resp resp = {};
	struct vnic_cq *cq = to_vcq(ibcq);
	struct ib_udata *udata;
	struct vnic_ctx *ctx;
	u32 depth, npages;
	int err, gone;

	if (!attrs || attr->flags)
		return -EOPNOTSUPP;
	if (!attr->cqe || attr->cqe > dev->caps.max_cq_depth)
		return -EINVAL;
	udata = &attrs->driver_udata;
	ctx = vnic_udata_ctx(udata);
	depth = roundup_pow_of_two(attr->cqe);
	npages = vnic_cq_pages(depth);
	if (npages > VNIC_MAX_RING_PAGES)
		return -EINVAL;

	cq->mem = vnic_mem_alloc(dev, npages);
	if (!cq->mem)
		return -ENOMEM;
	err = vnic_mem_publish(cq->mem, &ctx->ibuc);
	if (err)
		goto err_mem;
	err = xa_alloc_cyclic_irq(&dev->cqs, &cq->cookie, cq, xa_limit_32b,
				  &dev->cq_next, GFP_KERNEL_ACCOUNT);
	if (err < 0)
		goto err_published;
	err = vnic_cq_tell(dev, cq, ctx, depth);
	if (err)
		goto err_cookie;

	ibcq->cqe = depth;
	resp.mmap_offset = cpu_to_le64(vnic_mem_offset(cq->mem));
	resp.mmap_length = cpu_to_le64((u64)npages << PAGE_SHIFT);
	resp.depth = cpu_to_le32(depth);
	resp.handle = cpu_to_le32(cq->handle);
	err = ib_copy_to_udata(udata, &resp, min(sizeof(resp), udata->outlen));
	if (err)
		goto err_told;
	atomic_inc(&dev->stats.cq);
	return 0;

err_told:
	gone = vnic_cmd_handle(dev, VNIC_CMD_CQ_DESTROY, cq->handle);
	xa_erase_irq(&dev->cqs, cq->cookie);
	vnic_mem_withdraw(cq->mem);
	vnic_mem_release(cq->mem, vnic_may_keep(gone));
	return err;
err_cookie:
	xa_erase_irq(&dev->cqs, cq->cookie);
err_published:
	vnic_mem_withdraw(cq->mem);
err_mem:
	vnic_mem_release(cq->mem, vnic_may_have(err));
	return err;
}

int vnic_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibcq->device);
	struct vnic_cq *cq = to_vcq(ibcq);
	int err;

	err = vnic_cmd_handle(dev, VNIC_CMD_CQ_DESTROY, cq->handle);
	if (err == -EBUSY)
		return err;
	/* Waits for a handler that runs now; afterwards none can start. */
	xa_erase_irq(&dev->cqs, cq->cookie);
	vnic_mem_withdraw(cq->mem);
	vnic_mem_release(cq->mem, vnic_may_keep(err));
	atomic_dec(&dev->stats.cq);
	return 0;
}
