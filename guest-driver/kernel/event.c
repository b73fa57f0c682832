// SPDX-License-Identifier: GPL-2.0
/*
 * Event queue: completion events and asynchronous events.
 *
 * Handlers run in the interrupt, under the xa_lock of the table that holds
 * the object. Whoever destroys an object takes it out of the table, under the
 * same lock, before it frees it: no event can reach a freed object.
 */
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "vnic.h"

#define VNIC_EVENT_BUFS 128

int vnic_eventq_init(struct vnic_dev *dev)
{
	spin_lock_init(&dev->event.lock);
	dev->event.bufs = kcalloc(VNIC_EVENT_BUFS, sizeof(*dev->event.bufs),
				  GFP_KERNEL);
	return dev->event.bufs ? 0 : -ENOMEM;
}

void vnic_eventq_exit(struct vnic_dev *dev)
{
	kfree(dev->event.bufs);
}

static int vnic_event_post(struct vnic_dev *dev, struct vnic_event *buf)
{
	struct scatterlist sg;

	sg_init_one(&sg, buf, sizeof(*buf));
	return virtqueue_add_inbuf(dev->event.vq, &sg, 1, buf, GFP_ATOMIC);
}

void vnic_eventq_fill(struct vnic_dev *dev)
{
	struct vnic_eventq *q = &dev->event;
	unsigned long flags;
	int i;

	spin_lock_irqsave(&q->lock, flags);
	for (i = 0; i < VNIC_EVENT_BUFS; i++)
		if (vnic_event_post(dev, &q->bufs[i]))
			break;
	virtqueue_kick(q->vq);
	spin_unlock_irqrestore(&q->lock, flags);
}

static bool vnic_cq_event(struct vnic_dev *dev, u32 kind, u32 handle,
			  u64 cookie)
{
	struct ib_event event = { .event = IB_EVENT_CQ_ERR };
	unsigned long flags;
	struct vnic_cq *cq;
	bool found;

	if (cookie > U32_MAX)
		return false;
	xa_lock_irqsave(&dev->cqs, flags);
	cq = xa_load(&dev->cqs, cookie);
	found = cq && cq->handle == handle;
	if (found && kind == VNIC_EVENT_COMPLETION) {
		if (cq->ibcq.comp_handler)
			cq->ibcq.comp_handler(&cq->ibcq, cq->ibcq.cq_context);
	} else if (found && cq->ibcq.event_handler) {
		event.device = cq->ibcq.device;
		event.element.cq = &cq->ibcq;
		cq->ibcq.event_handler(&event, cq->ibcq.cq_context);
	}
	xa_unlock_irqrestore(&dev->cqs, flags);
	return found;
}

static void vnic_qp_tell(struct vnic_qp *qp, enum ib_event_type type)
{
	struct ib_event event = {
		.event = type,
		.device = qp->ibqp.device,
		.element.qp = &qp->ibqp,
	};

	if (qp->ibqp.event_handler)
		qp->ibqp.event_handler(&event, qp->ibqp.qp_context);
}

static bool vnic_qp_event(struct vnic_dev *dev, enum ib_event_type type,
			  u32 handle, u64 cookie)
{
	unsigned long flags;
	struct vnic_qp *qp;
	bool found;

	if (cookie > U32_MAX)
		return false;
	xa_lock_irqsave(&dev->qps, flags);
	qp = xa_load(&dev->qps, cookie);
	found = qp && qp->handle == handle;
	if (found)
		vnic_qp_tell(qp, type);
	xa_unlock_irqrestore(&dev->qps, flags);
	return found;
}

/* Tells every queue pair of a context, or of all for 0, that it is lost. */
void vnic_qps_fatal(struct vnic_dev *dev, u32 ctx)
{
	unsigned long flags, index;
	struct vnic_qp *qp;

	xa_lock_irqsave(&dev->qps, flags);
	xa_for_each(&dev->qps, index, qp)
		if (qp->handle && (!ctx || qp->ctx == ctx))
			vnic_qp_tell(qp, IB_EVENT_QP_FATAL);
	xa_unlock_irqrestore(&dev->qps, flags);
}

static bool vnic_event(struct vnic_dev *dev, u32 kind, u32 object, u64 cookie)
{
	switch (kind) {
	case VNIC_EVENT_COMPLETION:
	case VNIC_EVENT_CQ_ERROR:
		return vnic_cq_event(dev, kind, object, cookie);
	case VNIC_EVENT_QP_FATAL:
		return vnic_qp_event(dev, IB_EVENT_QP_FATAL, object, cookie);
	case VNIC_EVENT_QP_REQUEST_ERROR:
		return vnic_qp_event(dev, IB_EVENT_QP_REQ_ERR, object, cookie);
	case VNIC_EVENT_QP_ACCESS_ERROR:
		return vnic_qp_event(dev, IB_EVENT_QP_ACCESS_ERR, object,
				     cookie);
	case VNIC_EVENT_COMM_ESTABLISHED:
		return vnic_qp_event(dev, IB_EVENT_COMM_EST, object, cookie);
	case VNIC_EVENT_LAST_WQE_REACHED:
		return vnic_qp_event(dev, IB_EVENT_QP_LAST_WQE_REACHED, object,
				     cookie);
	case VNIC_EVENT_PORT_UP:
		vnic_wire_changed(dev, VNIC_WIRE_UP);
		return true;
	case VNIC_EVENT_PORT_DOWN:
		vnic_wire_changed(dev, cookie & VNIC_PORT_STILL_REACHES ?
				       VNIC_WIRE_PARTLY : VNIC_WIRE_DOWN);
		return true;
	case VNIC_EVENT_CONTEXT_FATAL:
		dev_warn_ratelimited(&dev->vdev->dev,
				     "the device stopped context %u\n", object);
		if (object)
			vnic_qps_fatal(dev, object);
		return true;
	default:
		return false;
	}
}

/* Interrupt: events have come. */
void vnic_eventq_done(struct virtqueue *vq)
{
	struct vnic_dev *dev = vq->vdev->priv;
	struct vnic_eventq *q = &dev->event;
	struct vnic_event *buf, event;
	unsigned long flags;
	unsigned int len;

	spin_lock_irqsave(&q->lock, flags);
	if (test_bit(VNIC_CLOSED, &dev->flags))
		goto out;
	do {
		virtqueue_disable_cb(vq);
		while ((buf = virtqueue_get_buf(vq, &len))) {
			event = *buf;
			/* It was in the queue before: there is room. */
			vnic_event_post(dev, buf);
			if (len < sizeof(event) ||
			    !vnic_event(dev, le32_to_cpu(event.kind),
					le32_to_cpu(event.object),
					le64_to_cpu(event.cookie)))
				atomic64_inc(&dev->stats.stray_events);
			else
				atomic64_inc(&dev->stats.events);
		}
	} while (!virtqueue_enable_cb(vq));
	virtqueue_kick(vq);
out:
	spin_unlock_irqrestore(&q->lock, flags);
}

/* After the reset. */
void vnic_eventq_drain(struct vnic_dev *dev)
{
	while (virtqueue_detach_unused_buf(dev->event.vq))
		;
}
