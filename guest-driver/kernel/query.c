// SPDX-License-Identifier: GPL-2.0
/* What the device and its port are, for those who ask. */
#include <rdma/ib_addr.h>

#include "vnic.h"

#define VNIC_VENDOR_ID		0x54564e	/* "TVN" */
#define VNIC_PART_ID		42

int vnic_query_device(struct ib_device *ibdev, struct ib_device_attr *attr,
		      struct ib_udata *udata)
{
	const struct vnic_caps *caps = &to_vdev(ibdev)->caps;
	u32 odp = IB_ODP_SUPPORT_SEND | IB_ODP_SUPPORT_RECV |
		  IB_ODP_SUPPORT_WRITE | IB_ODP_SUPPORT_READ;

	memset(attr, 0, sizeof(*attr));
	attr->sys_image_guid = ibdev->node_guid;
	attr->vendor_id = VNIC_VENDOR_ID;
	attr->vendor_part_id = VNIC_PART_ID;
	attr->hw_ver = caps->version;
	attr->max_mr_size = caps->max_mr_size;
	attr->page_size_cap = PAGE_MASK & U32_MAX;
	attr->device_cap_flags = IB_DEVICE_SYS_IMAGE_GUID |
				 IB_DEVICE_PORT_ACTIVE_EVENT |
				 IB_DEVICE_RC_RNR_NAK_GEN;
	attr->kernel_cap_flags = IBK_ON_DEMAND_PAGING;
	attr->max_qp = caps->max_qp;
	attr->max_qp_wr = min(caps->max_sq_depth, caps->max_rq_depth);
	attr->max_send_sge = caps->max_send_sge;
	attr->max_recv_sge = caps->max_recv_sge;
	attr->max_sge_rd = caps->max_send_sge;
	attr->max_cq = caps->max_cq;
	attr->max_cqe = caps->max_cq_depth;
	attr->max_mr = caps->max_mr;
	attr->max_pd = caps->max_pd;
	attr->max_qp_rd_atom = caps->max_rd_atomic;
	attr->max_qp_init_rd_atom = caps->max_rd_atomic;
	attr->max_res_rd_atom = min_t(u64, S32_MAX,
				      (u64)caps->max_rd_atomic * caps->max_qp);
	attr->max_pkeys = 1;
	attr->local_ca_ack_delay = 15;
	attr->atomic_cap = IB_ATOMIC_NONE;
	if (caps->features & VNIC_F_ATOMIC) {
		attr->atomic_cap = IB_ATOMIC_GLOB;
		odp |= IB_ODP_SUPPORT_ATOMIC;
	}
	attr->odp_caps.general_caps = IB_ODP_SUPPORT;
	if (caps->features & VNIC_F_IMPLICIT_MR)
		attr->odp_caps.general_caps |= IB_ODP_SUPPORT_IMPLICIT;
	attr->odp_caps.per_transport_caps.rc_odp_caps = odp;
	return 0;
}

int vnic_query_port(struct ib_device *ibdev, u32 port, struct ib_port_attr *attr)
{
	struct vnic_ib *ib = container_of(ibdev, struct vnic_ib, ibdev);
	const struct vnic_caps *caps = &ib->dev->caps;

	attr->state = vnic_port_state(ib);
	attr->phys_state = attr->state == IB_PORT_ACTIVE ?
		IB_PORT_PHYS_STATE_LINK_UP : IB_PORT_PHYS_STATE_DISABLED;
	attr->max_mtu = IB_MTU_4096;
	attr->active_mtu = caps->active_mtu;
	attr->gid_tbl_len = caps->max_gid;
	attr->ip_gids = true;
	attr->max_msg_sz = caps->max_msg_size;
	attr->pkey_tbl_len = 1;
	attr->max_vl_num = 1;
	/* There is no wire to have a speed; programs want to see one. */
	attr->active_speed = IB_SPEED_EDR;
	attr->active_width = IB_WIDTH_4X;
	return 0;
}

int vnic_query_pkey(struct ib_device *ibdev, u32 port, u16 index, u16 *pkey)
{
	if (index)
		return -EINVAL;
	*pkey = 0xffff;
	return 0;
}

int vnic_get_port_immutable(struct ib_device *ibdev, u32 port,
			    struct ib_port_immutable *immutable)
{
	immutable->core_cap_flags = RDMA_CORE_CAP_PROT_ROCE_UDP_ENCAP;
	immutable->gid_tbl_len = to_vdev(ibdev)->caps.max_gid;
	immutable->pkey_tbl_len = 1;
	return 0;
}

enum rdma_link_layer vnic_get_link_layer(struct ib_device *ibdev, u32 port)
{
	return IB_LINK_LAYER_ETHERNET;
}
