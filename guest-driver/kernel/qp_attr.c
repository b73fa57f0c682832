// SPDX-License-Identifier: GPL-2.0
/* Queue pairs: attributes and states. */
#include <rdma/ib_addr.h>

#include "vnic.h"

/* What modify_qp understands; APM and rate limits are not among it. */
#define VNIC_QP_ATTRS							\
	(IB_QP_STATE | IB_QP_CUR_STATE | IB_QP_ACCESS_FLAGS |		\
	 IB_QP_PKEY_INDEX | IB_QP_PORT | IB_QP_QKEY | IB_QP_AV |	\
	 IB_QP_PATH_MTU | IB_QP_TIMEOUT | IB_QP_RETRY_CNT |		\
	 IB_QP_RNR_RETRY | IB_QP_RQ_PSN | IB_QP_MAX_QP_RD_ATOMIC |	\
	 IB_QP_MIN_RNR_TIMER | IB_QP_SQ_PSN |				\
	 IB_QP_MAX_DEST_RD_ATOMIC | IB_QP_DEST_QPN | IB_QP_PATH_MIG_STATE)

static int vnic_av_to_wire(const struct rdma_ah_attr *ah, struct vnic_av *av)
{
	const struct ib_global_route *grh;

	if (ah->type != RDMA_AH_ATTR_TYPE_ROCE ||
	    !(rdma_ah_get_ah_flags(ah) & IB_AH_GRH))
		return -EINVAL;
	grh = rdma_ah_read_grh(ah);
	memcpy(av->dgid, grh->dgid.raw, sizeof(av->dgid));
	av->flow_label = cpu_to_le32(grh->flow_label);
	av->sgid_index = grh->sgid_index;
	av->hop_limit = grh->hop_limit;
	av->traffic_class = grh->traffic_class;
	av->sl = rdma_ah_get_sl(ah);
	memcpy(av->dmac, ah->roce.dmac, sizeof(av->dmac));
	return 0;
}

static void vnic_av_to_ib(const struct vnic_av *av, u32 port,
			  struct rdma_ah_attr *ah)
{
	memset(ah, 0, sizeof(*ah));
	ah->type = RDMA_AH_ATTR_TYPE_ROCE;
	rdma_ah_set_port_num(ah, port);
	rdma_ah_set_sl(ah, av->sl);
	rdma_ah_set_grh(ah, NULL, le32_to_cpu(av->flow_label), av->sgid_index,
			av->hop_limit, av->traffic_class);
	rdma_ah_set_dgid_raw(ah, (void *)av->dgid);
	memcpy(ah->roce.dmac, av->dmac, sizeof(av->dmac));
}

static int vnic_attr_to_wire(struct vnic_dev *dev, const struct ib_qp_attr *attr,
			     int mask, struct vnic_cmd_qp_modify *body)
{
	struct vnic_qp_attr *wire = &body->attr;
	u32 named = 0;
	int err = 0;

	if (mask & IB_QP_STATE) {
		named |= VNIC_QP_ATTR_STATE;
		wire->state = attr->qp_state;
	}
	if (mask & IB_QP_CUR_STATE) {
		named |= VNIC_QP_ATTR_CUR_STATE;
		wire->cur_state = attr->cur_qp_state;
	}
	if (mask & IB_QP_ACCESS_FLAGS) {
		named |= VNIC_QP_ATTR_ACCESS_FLAGS;
		wire->access = cpu_to_le32(vnic_access_flags(dev,
							     attr->qp_access_flags,
							     &err));
		if (err)
			return err;
	}
	if (mask & IB_QP_PKEY_INDEX) {
		named |= VNIC_QP_ATTR_PKEY_INDEX;
		wire->pkey_index = cpu_to_le16(attr->pkey_index);
	}
	if (mask & IB_QP_PORT) {
		named |= VNIC_QP_ATTR_PORT;
		wire->port = attr->port_num;
	}
	if (mask & IB_QP_QKEY) {
		named |= VNIC_QP_ATTR_QKEY;
		wire->qkey = cpu_to_le32(attr->qkey);
	}
	if (mask & IB_QP_AV) {
		named |= VNIC_QP_ATTR_AV;
		err = vnic_av_to_wire(&attr->ah_attr, &wire->av);
		if (err)
			return err;
	}
	if (mask & IB_QP_PATH_MTU) {
		named |= VNIC_QP_ATTR_PATH_MTU;
		wire->path_mtu = attr->path_mtu;
	}
	if (mask & IB_QP_TIMEOUT) {
		named |= VNIC_QP_ATTR_TIMEOUT;
		wire->timeout = attr->timeout;
	}
	if (mask & IB_QP_RETRY_CNT) {
		named |= VNIC_QP_ATTR_RETRY_CNT;
		wire->retry_cnt = attr->retry_cnt;
	}
	if (mask & IB_QP_RNR_RETRY) {
		named |= VNIC_QP_ATTR_RNR_RETRY;
		wire->rnr_retry = attr->rnr_retry;
	}
	if (mask & IB_QP_RQ_PSN) {
		named |= VNIC_QP_ATTR_RQ_PSN;
		wire->rq_psn = cpu_to_le32(attr->rq_psn);
	}
	if (mask & IB_QP_MAX_QP_RD_ATOMIC) {
		named |= VNIC_QP_ATTR_MAX_QP_RD_ATOMIC;
		wire->max_rd_atomic = attr->max_rd_atomic;
	}
	if (mask & IB_QP_MIN_RNR_TIMER) {
		named |= VNIC_QP_ATTR_MIN_RNR_TIMER;
		wire->min_rnr_timer = attr->min_rnr_timer;
	}
	if (mask & IB_QP_SQ_PSN) {
		named |= VNIC_QP_ATTR_SQ_PSN;
		wire->sq_psn = cpu_to_le32(attr->sq_psn);
	}
	if (mask & IB_QP_MAX_DEST_RD_ATOMIC) {
		named |= VNIC_QP_ATTR_MAX_DEST_RD_ATOMIC;
		wire->max_dest_rd_atomic = attr->max_dest_rd_atomic;
	}
	if (mask & IB_QP_DEST_QPN) {
		named |= VNIC_QP_ATTR_DEST_QPN;
		wire->dest_qpn = cpu_to_le32(attr->dest_qp_num);
	}
	body->mask = cpu_to_le32(named);
	return 0;
}

int vnic_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		   struct ib_udata *udata)
{
	struct vnic_dev *dev = to_vdev(ibqp->device);
	struct vnic_qp *qp = to_vqp(ibqp);
	struct vnic_cmd_qp_modify body = { .qpn = cpu_to_le32(qp->handle) };
	enum ib_qp_state cur, next;
	int err;

	BUILD_BUG_ON(IB_QPS_RESET != VNIC_QPS_RESET ||
		     IB_QPS_RTS != VNIC_QPS_RTS || IB_QPS_ERR != VNIC_QPS_ERR);

	if (mask & ~VNIC_QP_ATTRS)
		return -EOPNOTSUPP;
	if (mask & IB_QP_PATH_MIG_STATE && attr->path_mig_state != IB_MIG_MIGRATED)
		return -EOPNOTSUPP;
	err = vnic_attr_to_wire(dev, attr, mask, &body);
	if (err)
		return err;

	mutex_lock(&qp->lock);
	cur = mask & IB_QP_CUR_STATE ? attr->cur_qp_state : qp->state;
	next = mask & IB_QP_STATE ? attr->qp_state : cur;
	err = -EINVAL;
	if (!ib_modify_qp_is_ok(cur, next, ibqp->qp_type, mask))
		goto out;
	if (cur == IB_QPS_RESET && next == IB_QPS_RESET) {
		err = 0;
		goto out;
	}
	err = vnic_cmd(dev, VNIC_CMD_QP_MODIFY, &body, sizeof(body), NULL, 0);
	if (err)
		goto out;
	qp->state = next;
	/* The device begins with element 0 again, and must not find old ones. */
	if (next == IB_QPS_RESET)
		vnic_mem_clear(qp->mem, VNIC_QP_SQ_OFFSET, SIZE_MAX / 2);
out:
	mutex_unlock(&qp->lock);
	return err;
}

int vnic_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		  struct ib_qp_init_attr *init)
{
	struct vnic_dev *dev = to_vdev(ibqp->device);
	struct vnic_qp *qp = to_vqp(ibqp);
	struct vnic_cmd_handle body = { .handle = cpu_to_le32(qp->handle) };
	struct vnic_qp_attr wire;
	int err;

	err = vnic_cmd(dev, VNIC_CMD_QP_QUERY, &body, sizeof(body), &wire,
		       sizeof(wire));
	if (err)
		return err;

	attr->qp_state = wire.state;
	attr->cur_qp_state = wire.state;
	attr->path_mtu = wire.path_mtu;
	attr->path_mig_state = IB_MIG_MIGRATED;
	attr->qkey = le32_to_cpu(wire.qkey);
	attr->rq_psn = le32_to_cpu(wire.rq_psn);
	attr->sq_psn = le32_to_cpu(wire.sq_psn);
	attr->dest_qp_num = le32_to_cpu(wire.dest_qpn);
	attr->qp_access_flags = vnic_access_to_ib(le32_to_cpu(wire.access));
	attr->cap = qp->cap;
	attr->pkey_index = le16_to_cpu(wire.pkey_index);
	attr->sq_draining = wire.state == VNIC_QPS_SQD;
	attr->max_rd_atomic = wire.max_rd_atomic;
	attr->max_dest_rd_atomic = wire.max_dest_rd_atomic;
	attr->min_rnr_timer = wire.min_rnr_timer;
	attr->port_num = wire.port;
	attr->timeout = wire.timeout;
	attr->retry_cnt = wire.retry_cnt;
	attr->rnr_retry = wire.rnr_retry;
	vnic_av_to_ib(&wire.av, wire.port, &attr->ah_attr);

	init->send_cq = ibqp->send_cq;
	init->recv_cq = ibqp->recv_cq;
	init->cap = qp->cap;
	init->sq_sig_type = qp->sig_type;
	init->qp_type = ibqp->qp_type;
	return 0;
}
