// SPDX-License-Identifier: GPL-2.0
/*
 * Memory regions: a window of permissions. Nothing is pinned, nothing is
 * walked, and the size does not matter; unless the device asked for pages that
 * stay where they are, see pin.c.
 *
 * The device judges what a region may be. What it agreed to is kept here as
 * well, by key, for those who give advice about a range of a region. Keys are
 * random, which is why they are hashed: in an xarray each would take a node
 * of its own.
 */
#include <linux/rhashtable.h>
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

static const struct rhashtable_params vnic_mrs_params = {
	.head_offset = offsetof(struct vnic_mr, node),
	.key_offset = offsetof(struct vnic_mr, key),
	.key_len = sizeof_field(struct vnic_mr, key),
	.automatic_shrinking = true,
};

int vnic_mrs_init(struct vnic_dev *dev)
{
	spin_lock_init(&dev->mr_lock);
	return rhashtable_init(&dev->mrs, &vnic_mrs_params);
}

void vnic_mrs_exit(struct vnic_dev *dev)
{
	rhashtable_destroy(&dev->mrs);
}

/* Called with mr_lock held, under which what is found stays. */
struct vnic_mr *vnic_mr_find(struct vnic_dev *dev, u32 key)
{
	lockdep_assert_held(&dev->mr_lock);
	return rhashtable_lookup_fast(&dev->mrs, &key, vnic_mrs_params);
}

struct ib_mr *vnic_get_dma_mr(struct ib_pd *ibpd, int access)
{
	return ERR_PTR(-EOPNOTSUPP);
}

/* Where requests find the first byte of a region. */
static u64 vnic_wire_iova(u32 wire, u64 iova)
{
	return wire & VNIC_ACCESS_ZERO_BASED ? 0 : iova;
}

VNIC_REG_USER_MR(vnic_reg_user_mr)
{
	struct vnic_dev *dev = to_vdev(ibpd->device);
	struct vnic_reply_mr_create reply;
	struct vnic_cmd_mr_create body;
	struct vnic_mr *mr;
	bool gone = false;
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
	mr->pasid = vnic_udata_ctx(udata)->pasid;
	mr->pd = to_vpd(ibpd)->handle;
	mr->access = wire;
	mr->start = start;
	mr->length = length;
	mr->iova = vnic_wire_iova(wire, iova);
	if (dev->caps.features & VNIC_F_PIN) {
		mr->pin = vnic_pin_range(start, length,
					 wire & VNIC_ACCESS_LOCAL_WRITE);
		if (IS_ERR(mr->pin)) {
			err = PTR_ERR(mr->pin);
			kfree(mr);
			return ERR_PTR(err);
		}
	}
	if (dev->caps.features & VNIC_F_ACKNOWLEDGE) {
		atomic_inc(&mr->pasid->regions);
		/* Pairs with the fence of an invalidation before it looks. */
		smp_mb__after_atomic();
	}
	body = (struct vnic_cmd_mr_create) {
		.pd = cpu_to_le32(mr->pd),
		.access = cpu_to_le32(mr->access),
		.start = cpu_to_le64(mr->start),
		.length = cpu_to_le64(mr->length),
		.iova = cpu_to_le64(mr->iova),
	};
	err = vnic_cmd(dev, VNIC_CMD_MR_CREATE, &body, sizeof(body), &reply,
		       sizeof(reply));
	if (err)
		goto err_free;
	mr->handle = le32_to_cpu(reply.handle);
	mr->key = le32_to_cpu(reply.lkey);
	err = rhashtable_lookup_insert_fast(&dev->mrs, &mr->node,
					    vnic_mrs_params);
	if (err)
		goto err_destroy;
	/* Of these, not every path of the core takes note by itself. */
	mr->ibmr.iova = iova;
	mr->ibmr.length = length;
	mr->ibmr.lkey = mr->key;
	mr->ibmr.rkey = le32_to_cpu(reply.rkey);
	atomic_inc(&dev->stats.mr);
	return &mr->ibmr;

err_destroy:
	gone = !vnic_cmd_handle(dev, VNIC_CMD_MR_DESTROY, mr->handle);
err_free:
	/* A device that did not answer may have taken the region. */
	vnic_pin_release(dev, mr->pin, !gone && vnic_dead(dev));
	if (dev->caps.features & VNIC_F_ACKNOWLEDGE)
		atomic_dec(&mr->pasid->regions);
	kfree(mr);
	return ERR_PTR(err);
}

/*
 * Changes a region in place: handle and keys stay. If the device refuses, the
 * region is what it was.
 */
struct ib_mr *vnic_rereg_user_mr(struct ib_mr *ibmr, int flags, u64 start,
				 u64 length, u64 iova, int access,
				 struct ib_pd *ibpd, struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibmr->device);
	struct vnic_mr *mr = to_vmr(ibmr);
	struct vnic_reply_mr_create reply;
	struct vnic_cmd_mr_modify body;
	u32 pd = mr->pd, wire = mr->access, mask = 0;
	int err = 0;

	if (flags & ~(IB_MR_REREG_TRANS | IB_MR_REREG_PD | IB_MR_REREG_ACCESS))
		return ERR_PTR(-EOPNOTSUPP);
	/* Nothing is left if the core finds that the domain is the old one. */
	if (!flags)
		return NULL;

	if (flags & IB_MR_REREG_PD) {
		mask |= VNIC_MR_ATTR_PD;
		pd = to_vpd(ibpd)->handle;
	}
	if (flags & IB_MR_REREG_ACCESS) {
		mask |= VNIC_MR_ATTR_ACCESS;
		wire = vnic_access_flags(dev, access, &err);
		if (err)
			return ERR_PTR(err);
	}
	if (flags & IB_MR_REREG_TRANS) {
		mask |= VNIC_MR_ATTR_TRANSLATION;
	} else {
		start = mr->start;
		length = mr->length;
		iova = ibmr->iova;
	}
	iova = vnic_wire_iova(wire, iova);
	/* Rights, to those who ask; to the device it is a matter of place. */
	if (iova != mr->iova)
		mask |= VNIC_MR_ATTR_TRANSLATION;

	body = (struct vnic_cmd_mr_modify) {
		.mr = cpu_to_le32(mr->handle),
		.mask = cpu_to_le32(mask),
		.pd = cpu_to_le32(pd),
		.access = cpu_to_le32(wire),
		.start = cpu_to_le64(start),
		.length = cpu_to_le64(length),
		.iova = cpu_to_le64(iova),
	};
	err = vnic_cmd(dev, VNIC_CMD_MR_MODIFY, &body, sizeof(body), &reply,
		       sizeof(reply));
	if (err)
		return ERR_PTR(err);

	spin_lock(&dev->mr_lock);
	mr->pd = pd;
	mr->access = wire;
	mr->start = start;
	mr->length = length;
	mr->iova = iova;
	spin_unlock(&dev->mr_lock);
	return NULL;
}

int vnic_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibmr->device);
	struct vnic_mr *mr = to_vmr(ibmr);
	int err;

	/* First, since the device may give the key away at once. */
	spin_lock(&dev->mr_lock);
	rhashtable_remove_fast(&dev->mrs, &mr->node, vnic_mrs_params);
	spin_unlock(&dev->mr_lock);
	err = vnic_cmd_handle(dev, VNIC_CMD_MR_DESTROY, mr->handle);
	vnic_pin_release(dev, mr->pin, err);
	if (dev->caps.features & VNIC_F_ACKNOWLEDGE)
		atomic_dec(&mr->pasid->regions);
	kfree(mr);
	atomic_dec(&dev->stats.mr);
	return 0;
}
