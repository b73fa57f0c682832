// SPDX-License-Identifier: GPL-2.0
/* Queue pairs: sizes, memory, creation and destruction. */
#include <linux/log2.h>
#include <rdma/uverbs_ioctl.h>

#include "vnic.h"

static u32 vnic_stride(u32 bytes)
{
	return max_t(u32, roundup_pow_of_two(bytes), VNIC_WQE_STRIDE_MIN);
}

/*
 * Chooses depths and strides for what the caller asks, and writes what they
 * really hold back to cap. Returns the pages of the queue pair's memory.
 */
static int vnic_qp_size(struct vnic_dev *dev, struct vnic_qp *qp,
			struct ib_qp_cap *cap, u32 *npages)
{
	const struct vnic_caps *caps = &dev->caps;
	u64 end;
	u32 sq;

	if (cap->max_send_wr > caps->max_sq_depth ||
	    cap->max_recv_wr > caps->max_rq_depth ||
	    cap->max_send_sge > caps->max_send_sge ||
	    cap->max_recv_sge > caps->max_recv_sge ||
	    cap->max_inline_data > caps->max_inline)
		return -EINVAL;

	sq = max3((u32)(VNIC_SEND_WQE_PAYLOAD +
			cap->max_send_sge * sizeof(struct vnic_sge)),
		  VNIC_SEND_WQE_PAYLOAD + cap->max_inline_data,
		  (u32)(VNIC_ATOMIC_WQE_PAYLOAD + sizeof(struct vnic_sge)));
	qp->sq_stride = vnic_stride(sq);
	qp->rq_stride = vnic_stride(VNIC_RECV_WQE_PAYLOAD +
				    cap->max_recv_sge *
				    sizeof(struct vnic_sge));
	if (qp->sq_stride > VNIC_WQE_STRIDE_MAX ||
	    qp->rq_stride > VNIC_WQE_STRIDE_MAX)
		return -EINVAL;
	qp->sq_depth = roundup_pow_of_two(max(cap->max_send_wr, 1U));
	qp->rq_depth = roundup_pow_of_two(max(cap->max_recv_wr, 1U));

	end = VNIC_QP_SQ_OFFSET + (u64)qp->sq_depth * qp->sq_stride;
	end = ALIGN(end, VNIC_PAGE_SIZE);
	if (end > U32_MAX)
		return -EINVAL;
	qp->rq_offset = end;
	end += (u64)qp->rq_depth * qp->rq_stride;
	end = DIV_ROUND_UP_ULL(end, PAGE_SIZE);
	if (end > VNIC_MAX_RING_PAGES)
		return -EINVAL;
	*npages = end;

	cap->max_send_wr = qp->sq_depth;
	cap->max_recv_wr = qp->rq_depth;
	cap->max_send_sge = min_t(u32, caps->max_send_sge,
				  (qp->sq_stride - VNIC_SEND_WQE_PAYLOAD) /
				  sizeof(struct vnic_sge));
	cap->max_recv_sge = min_t(u32, caps->max_recv_sge,
				  (qp->rq_stride - VNIC_RECV_WQE_PAYLOAD) /
				  sizeof(struct vnic_sge));
	cap->max_inline_data = min(caps->max_inline,
				   qp->sq_stride - VNIC_SEND_WQE_PAYLOAD);
	qp->cap = *cap;
	return 0;
}

static int vnic_qp_tell(struct vnic_dev *dev, struct vnic_qp *qp,
			u32 *doorbell)
{
	struct vnic_cmd_qp_create body = {
		.pd = cpu_to_le32(to_vpd(qp->ibqp.pd)->handle),
		.send_cq = cpu_to_le32(to_vcq(qp->ibqp.send_cq)->handle),
		.recv_cq = cpu_to_le32(to_vcq(qp->ibqp.recv_cq)->handle),
		.qp_type = VNIC_QPT_RC,
		.sq_sig_all = qp->sig_type == IB_SIGNAL_ALL_WR,
		.sq_depth = cpu_to_le32(qp->sq_depth),
		.sq_stride = cpu_to_le32(qp->sq_stride),
		.rq_depth = cpu_to_le32(qp->rq_depth),
		.rq_stride = cpu_to_le32(qp->rq_stride),
		.cookie = cpu_to_le64(qp->cookie),
	};
	struct vnic_reply_qp_create reply;
	__le64 *list;
	int err;

	list = vnic_mem_list(qp->mem, &body.pages);
	if (!list)
		return -ENOMEM;
	err = vnic_cmd_list(dev, VNIC_CMD_QP_CREATE, &body, sizeof(body),
			    &reply, sizeof(reply), list);
	if (err)
		return err;
	qp->handle = le32_to_cpu(reply.qpn);
	*doorbell = le32_to_cpu(reply.doorbell_index);
	return 0;
}

static int vnic_qp_respond(struct vnic_qp *qp, u32 doorbell, u32 npages,
			   struct ib_udata *udata)
{
	struct vnic_uverbs_qp_resp resp = {
		.mmap_offset = cpu_to_le64(vnic_mem_offset(qp->mem)),
		.mmap_length = cpu_to_le64((u64)npages << PAGE_SHIFT),
		.sq_depth = cpu_to_le32(qp->sq_depth),
		.sq_stride = cpu_to_le32(qp->sq_stride),
		.rq_offset = cpu_to_le32(qp->rq_offset),
		.rq_depth = cpu_to_le32(qp->rq_depth),
		.rq_stride = cpu_to_le32(qp->rq_stride),
		.doorbell_index = cpu_to_le32(doorbell),
		.max_inline = cpu_to_le32(qp->cap.max_inline_data),
		.max_send_sge = cpu_to_le32(qp->cap.max_send_sge),
		.max_recv_sge = cpu_to_le32(qp->cap.max_recv_sge),
	};

	/* The provider would write past its page, or name no queue pair. */
	if (doorbell >= VNIC_DOORBELL_BITS || !qp->handle ||
	    qp->handle > 0xffffff)
		return -EPROTO;
	return ib_copy_to_udata(udata, &resp, min(sizeof(resp), udata->outlen));
}

int vnic_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *attr,
		   struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibqp->device);
	struct vnic_qp *qp = to_vqp(ibqp);
	struct vnic_ctx *ctx;
	u32 npages, doorbell;
	int err, gone;

	if (!udata || attr->qp_type != IB_QPT_RC || attr->srq ||
	    attr->create_flags)
		return -EOPNOTSUPP;
	if (!ibqp->send_cq || !ibqp->recv_cq)
		return -EINVAL;
	ctx = vnic_udata_ctx(udata);
	err = vnic_qp_size(dev, qp, &attr->cap, &npages);
	if (err)
		return err;
	mutex_init(&qp->lock);
	qp->state = IB_QPS_RESET;
	qp->sig_type = attr->sq_sig_type;
	qp->ctx = ctx->handle;

	qp->mem = vnic_mem_alloc(dev, npages);
	if (!qp->mem)
		return -ENOMEM;
	err = vnic_mem_publish(qp->mem, &ctx->ibuc);
	if (err)
		goto err_mem;
	err = xa_alloc_cyclic_irq(&dev->qps, &qp->cookie, qp, xa_limit_32b,
				  &dev->qp_next, GFP_KERNEL_ACCOUNT);
	if (err < 0)
		goto err_published;
	err = vnic_qp_tell(dev, qp, &doorbell);
	if (err)
		goto err_cookie;
	err = vnic_qp_respond(qp, doorbell, npages, udata);
	if (err)
		goto err_told;
	ibqp->qp_num = qp->handle;
	atomic_inc(&dev->stats.qp);
	return 0;

err_told:
	gone = vnic_cmd_handle(dev, VNIC_CMD_QP_DESTROY, qp->handle);
	xa_erase_irq(&dev->qps, qp->cookie);
	vnic_mem_withdraw(qp->mem);
	vnic_mem_release(qp->mem, vnic_may_keep(gone));
	return err;
err_cookie:
	xa_erase_irq(&dev->qps, qp->cookie);
err_published:
	vnic_mem_withdraw(qp->mem);
err_mem:
	vnic_mem_release(qp->mem, vnic_may_have(err));
	return err;
}

int vnic_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibqp->device);
	struct vnic_qp *qp = to_vqp(ibqp);
	int err;

	err = vnic_cmd_handle(dev, VNIC_CMD_QP_DESTROY, qp->handle);
	if (err == -EBUSY)
		return err;
	/* Waits for a handler that runs now; afterwards none can start. */
	xa_erase_irq(&dev->qps, qp->cookie);
	vnic_mem_withdraw(qp->mem);
	vnic_mem_release(qp->mem, vnic_may_keep(err));
	mutex_destroy(&qp->lock);
	atomic_dec(&dev->stats.qp);
	return 0;
}
