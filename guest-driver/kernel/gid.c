// SPDX-License-Identifier: GPL-2.0
/* GID table: the RDMA core derives the entries from the netdev's addresses. */
#include "vnic.h"

int vnic_add_gid(const struct ib_gid_attr *attr, void **context)
{
	struct vnic_dev *dev = to_vdev(attr->device);
	struct vnic_cmd_gid_set body = {
		.index = cpu_to_le32(attr->index),
		.gid_type = VNIC_GID_TYPE_ROCE_V2,
	};

	if (attr->gid_type != IB_GID_TYPE_ROCE_UDP_ENCAP)
		return -EOPNOTSUPP;
	if (attr->index >= dev->caps.max_gid)
		return -EINVAL;
	memcpy(body.gid, attr->gid.raw, sizeof(body.gid));
	return vnic_cmd(dev, VNIC_CMD_GID_SET, &body, sizeof(body), NULL, 0);
}

int vnic_del_gid(const struct ib_gid_attr *attr, void **context)
{
	/* Not to be refused: a device that does not answer has no table. */
	vnic_cmd_handle(to_vdev(attr->device), VNIC_CMD_GID_CLEAR, attr->index);
	return 0;
}
