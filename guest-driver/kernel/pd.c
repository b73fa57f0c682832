// SPDX-License-Identifier: GPL-2.0
/* Protection domains. */
#include <rdma/uverbs_ioctl.h>

#include "vnic.h"

int vnic_alloc_pd(struct ib_pd *ibpd, struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibpd->device);
	struct vnic_reply_handle reply;
	struct vnic_cmd_pd_create body = {};
	int err;

	if (!udata)
		return -EOPNOTSUPP;
	body.ctx = cpu_to_le32(vnic_udata_ctx(udata)->handle);
	err = vnic_cmd(dev, VNIC_CMD_PD_CREATE, &body, sizeof(body), &reply,
		       sizeof(reply));
	if (err)
		return err;
	to_vpd(ibpd)->handle = le32_to_cpu(reply.handle);
	atomic_inc(&dev->stats.pd);
	return 0;
}

int vnic_dealloc_pd(struct ib_pd *ibpd, struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibpd->device);

	if (vnic_cmd_handle(dev, VNIC_CMD_PD_DESTROY, to_vpd(ibpd)->handle) ==
	    -EBUSY)
		return -EBUSY;
	atomic_dec(&dev->stats.pd);
	return 0;
}
