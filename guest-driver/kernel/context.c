// SPDX-License-Identifier: GPL-2.0
/* User contexts: an address space, a doorbell page, and the way to kick. */
#include <linux/mm.h>
#include <rdma/uverbs_ioctl.h>

#include "vnic.h"

struct vnic_ctx *vnic_udata_ctx(struct ib_udata *udata)
{
	return rdma_udata_to_drv_context(udata, struct vnic_ctx, ibuc);
}

static int vnic_ctx_tell(struct vnic_dev *dev, struct vnic_ctx *ctx)
{
	struct vnic_cmd_ctx_create body = {
		.doorbell_page =
			cpu_to_le64(page_to_phys(ctx->doorbell->pages[0])),
		.pasid = cpu_to_le32(ctx->pasid->id),
	};
	struct vnic_reply_handle reply;
	int err;

	err = vnic_cmd(dev, VNIC_CMD_CTX_CREATE, &body, sizeof(body), &reply,
		       sizeof(reply));
	if (err)
		return err;
	ctx->handle = le32_to_cpu(reply.handle);
	return 0;
}

static int vnic_ctx_respond(struct vnic_dev *dev, struct vnic_ctx *ctx,
			    struct ib_udata *udata)
{
	struct vnic_uverbs_context_resp resp = {
		.doorbell_offset = cpu_to_le64(vnic_mem_offset(ctx->doorbell)),
		.kick_offset = cpu_to_le64(vnic_mem_offset(ctx->kick)),
		.kick_register = cpu_to_le32(offset_in_page(dev->kick_phys)),
		.kick_value = cpu_to_le32(VNIC_VQ_KICK),
		.max_inline = cpu_to_le32(dev->caps.max_inline),
	};

	return ib_copy_to_udata(udata, &resp, min(sizeof(resp), udata->outlen));
}

int vnic_alloc_ucontext(struct ib_ucontext *ibuc, struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibuc->device);
	struct vnic_ctx *ctx = to_vctx(ibuc);
	int err, gone;

	ctx->doorbell = vnic_mem_alloc(dev, 1);
	if (!ctx->doorbell)
		return -ENOMEM;
	err = -ENOMEM;
	ctx->kick = vnic_mem_kick(dev);
	if (!ctx->kick)
		goto err_doorbell;
	ctx->pasid = vnic_pasid_bind(dev);
	if (IS_ERR(ctx->pasid)) {
		err = PTR_ERR(ctx->pasid);
		/* The device knows nothing of the doorbell page yet. */
		vnic_mem_put(ctx->doorbell);
		vnic_mem_put(ctx->kick);
		return err;
	}
	err = vnic_ctx_tell(dev, ctx);
	if (err)
		goto err_pasid;
	err = vnic_mem_publish(ctx->doorbell, ibuc);
	if (err)
		goto err_ctx;
	err = vnic_mem_publish(ctx->kick, ibuc);
	if (err)
		goto err_published;
	err = vnic_ctx_respond(dev, ctx, udata);
	if (err)
		goto err_kick;

	atomic_inc(&dev->stats.ctx);
	vnic_liveness_watch(dev);
	return 0;

err_kick:
	vnic_mem_withdraw(ctx->kick);
err_published:
	vnic_mem_withdraw(ctx->doorbell);
err_ctx:
	gone = vnic_cmd_handle(dev, VNIC_CMD_CTX_DESTROY, ctx->handle);
	vnic_pasid_unbind(ctx->pasid);
	vnic_mem_put(ctx->kick);
	vnic_mem_release(ctx->doorbell, vnic_may_keep(gone));
	return err;
err_pasid:
	vnic_pasid_unbind(ctx->pasid);
	vnic_mem_put(ctx->kick);
err_doorbell:
	vnic_mem_release(ctx->doorbell, vnic_may_have(err));
	return err;
}

void vnic_dealloc_ucontext(struct ib_ucontext *ibuc)
{
	struct vnic_dev *dev = to_vdev(ibuc->device);
	struct vnic_ctx *ctx = to_vctx(ibuc);
	int err;

	vnic_mem_withdraw(ctx->kick);
	vnic_mem_withdraw(ctx->doorbell);
	err = vnic_cmd_handle(dev, VNIC_CMD_CTX_DESTROY, ctx->handle);
	vnic_pasid_unbind(ctx->pasid);
	vnic_mem_put(ctx->kick);
	vnic_mem_release(ctx->doorbell, vnic_may_keep(err));
	atomic_dec(&dev->stats.ctx);
}

/*
 * Nothing to do: the core took the kick page away, and queue pages belong to
 * whoever maps them. That this exists allows the device to go at any time.
 */
void vnic_disassociate_ucontext(struct ib_ucontext *ibuc)
{
}
