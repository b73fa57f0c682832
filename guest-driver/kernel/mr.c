// SPDX-License-Identifier: GPL-2.0
/*
 * Memory regions: a window of permissions. Nothing is pinned, nothing is
 * walked, and the size does not matter.
 */
#include <linux/slab.h>
#include <rdma/uverbs_ioctl.h>

#include "vnic.h"

static const struct {
	int ib;
	u32 wire;
} vnic_access_map[] = {
	{ IB_ACCESS_LOCAL_WRITE, VNIC_ACCESS_LOCAL_WRITE },
	{ IB_ACCESS_REMOTE_WRITE, VNIC_ACCESS_REMOTE_WRITE },
	{ IB_ACCESS_REMOTE_READ, VNIC_ACCESS_REMOTE_READ },
	{ IB_ACCESS_REMOTE_ATOMIC, VNIC_ACCESS_REMOTE_ATOMIC },
	{ IB_ZERO_BASED, VNIC_ACCESS_ZERO_BASED },
	{ IB_ACCESS_ON_DEMAND, VNIC_ACCESS_ON_DEMAND },
};

/* Translates rights; *err tells of one that this driver does not know. */
u32 vnic_access_flags(struct vnic_dev *dev, int access, int *err)
{
	u32 wire = 0;
	size_t i;

	/* Both are leave to do something that this device does not do. */
	access &= ~(IB_ACCESS_OPTIONAL | IB_ACCESS_HUGETLB);
	for (i = 0; i < ARRAY_SIZE(vnic_access_map); i++) {
		if (!(access & vnic_access_map[i].ib))
			continue;
		access &= ~vnic_access_map[i].ib;
		wire |= vnic_access_map[i].wire;
	}
	/* Without atomics the right to do them is void. */
	if (!(dev->caps.features & VNIC_F_ATOMIC))
		wire &= ~VNIC_ACCESS_REMOTE_ATOMIC;
	*err = access ? -EOPNOTSUPP : 0;
	return wire;
}

int vnic_access_to_ib(u32 wire)
{
	int access = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(vnic_access_map); i++)
		if (wire & vnic_access_map[i].wire)
			access |= vnic_access_map[i].ib;
	return access;
}

struct ib_mr *vnic_get_dma_mr(struct ib_pd *ibpd, int access)
{
	return ERR_PTR(-EOPNOTSUPP);
}

VNIC_REG_USER_MR(vnic_reg_user_mr)
{
	struct vnic_dev *dev = to_vdev(ibpd->device);
	struct vnic_reply_mr_create reply;
	struct vnic_cmd_mr_create body;
	struct vnic_mr *mr;
	u32 wire;
	int err;

	if (VNIC_REG_USER_MR_HAS_DMAH)
		return ERR_PTR(-EOPNOTSUPP);
	wire = vnic_access_flags(dev, access, &err);
	if (err)
		return ERR_PTR(err);

	mr = kzalloc(sizeof(*mr), GFP_KERNEL_ACCOUNT);
	if (!mr)
		return ERR_PTR(-ENOMEM);
	body = (struct vnic_cmd_mr_create) {
		.pd = cpu_to_le32(to_vpd(ibpd)->handle),
		.access = cpu_to_le32(wire),
		.start = cpu_to_le64(start),
		.length = cpu_to_le64(length),
		.iova = cpu_to_le64(wire & VNIC_ACCESS_ZERO_BASED ? 0 : iova),
	};
	err = vnic_cmd(dev, VNIC_CMD_MR_CREATE, &body, sizeof(body), &reply,
		       sizeof(reply));
	if (err) {
		kfree(mr);
		return ERR_PTR(err);
	}
	mr->handle = le32_to_cpu(reply.handle);
	mr->ibmr.lkey = le32_to_cpu(reply.lkey);
	mr->ibmr.rkey = le32_to_cpu(reply.rkey);
	atomic_inc(&dev->stats.mr);
	return &mr->ibmr;
}

int vnic_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibmr->device);
	struct vnic_mr *mr = to_vmr(ibmr);

	if (vnic_cmd_handle(dev, VNIC_CMD_MR_DESTROY, mr->handle) == -EBUSY)
		return -EBUSY;
	kfree(mr);
	atomic_dec(&dev->stats.mr);
	return 0;
}
