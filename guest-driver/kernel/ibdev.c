// SPDX-License-Identifier: GPL-2.0
/* The RDMA device that programs see. */
#include <net/addrconf.h>
#include <rdma/ib_verbs.h>

#include "vnic.h"

static const struct ib_device_ops vnic_ops = {
	.owner = THIS_MODULE,
	.driver_id = RDMA_DRIVER_UNKNOWN,
	.uverbs_abi_ver = VNIC_UVERBS_ABI_VERSION,

	/* No post and poll here: kernel consumers are not served. */
	.query_device = vnic_query_device,
	.query_port = vnic_query_port,
	.query_pkey = vnic_query_pkey,
	.get_port_immutable = vnic_get_port_immutable,
	.get_link_layer = vnic_get_link_layer,
	.add_gid = vnic_add_gid,
	.del_gid = vnic_del_gid,

	.alloc_ucontext = vnic_alloc_ucontext,
	.dealloc_ucontext = vnic_dealloc_ucontext,
	.disassociate_ucontext = vnic_disassociate_ucontext,
	.mmap = vnic_mmap,
	.mmap_free = vnic_mmap_free,

	.alloc_pd = vnic_alloc_pd,
	.dealloc_pd = vnic_dealloc_pd,
	.get_dma_mr = vnic_get_dma_mr,
	.reg_user_mr = vnic_reg_user_mr,
	.rereg_user_mr = vnic_rereg_user_mr,
	.advise_mr = vnic_advise_mr,
	.dereg_mr = vnic_dereg_mr,
	.create_cq = vnic_create_cq,
	.destroy_cq = vnic_destroy_cq,
	.create_qp = vnic_create_qp,
	.modify_qp = vnic_modify_qp,
	.query_qp = vnic_query_qp,
	.destroy_qp = vnic_destroy_qp,

	INIT_RDMA_OBJ_SIZE(ib_ucontext, vnic_ctx, ibuc),
	INIT_RDMA_OBJ_SIZE(ib_pd, vnic_pd, ibpd),
	INIT_RDMA_OBJ_SIZE(ib_cq, vnic_cq, ibcq),
	INIT_RDMA_OBJ_SIZE(ib_qp, vnic_qp, ibqp),
};

/* Makes the RDMA device of a netdev known. Sleeps; RTNL must not be held. */
struct vnic_ib *vnic_ib_register(struct vnic_dev *dev, struct net_device *ndev)
{
	struct vnic_ib *ib;
	int err;

	ib = ib_alloc_device(vnic_ib, ibdev);
	if (!ib)
		return ERR_PTR(-ENOMEM);
	ib->dev = dev;
	ib->ndev = ndev;
	netdev_hold(ndev, &ib->tracker, GFP_KERNEL);
	ib->wire = READ_ONCE(dev->wire);
	ib->port_state = vnic_port_state(ib);

	ib->ibdev.node_type = RDMA_NODE_IB_CA;
	ib->ibdev.phys_port_cnt = 1;
	ib->ibdev.num_comp_vectors = 1;
	ib->ibdev.dev.parent = &dev->vdev->dev;
	strscpy(ib->ibdev.node_desc, "Tongtu vNIC", sizeof(ib->ibdev.node_desc));
	addrconf_addr_eui48((u8 *)&ib->ibdev.node_guid, ndev->dev_addr);
	ib_set_device_ops(&ib->ibdev, &vnic_ops);

	err = ib_device_set_netdev(&ib->ibdev, ndev, 1);
	if (err)
		goto err_dealloc;
	err = ib_register_device(&ib->ibdev, "vnic%d", NULL);
	if (err)
		goto err_dealloc;
	vnic_stats_add(ib);
	dev_info(&dev->vdev->dev, "%s on %s\n", dev_name(&ib->ibdev.dev),
		 netdev_name(ndev));
	return ib;

err_dealloc:
	netdev_put(ndev, &ib->tracker);
	ib_dealloc_device(&ib->ibdev);
	return ERR_PTR(err);
}

/* Takes it away, from under its users if need be. */
void vnic_ib_unregister(struct vnic_ib *ib)
{
	vnic_stats_remove(ib);
	ib_unregister_device(&ib->ibdev);
	netdev_put(ib->ndev, &ib->tracker);
	ib_dealloc_device(&ib->ibdev);
}
