// SPDX-License-Identifier: GPL-2.0
/*
 * Liveness: nothing tells a guest that the process behind the device is gone,
 * so while somebody depends on it, it is asked.
 */
#include "vnic.h"

static void vnic_liveness_work(struct work_struct *work)
{
	struct vnic_dev *dev = container_of(to_delayed_work(work),
					    struct vnic_dev, liveness);

	if (vnic_dead(dev) || !atomic_read(&dev->stats.ctx))
		return;
	/* No answer within the time limit of commands kills the device. */
	vnic_cmd(dev, VNIC_CMD_NOP, NULL, 0, NULL, 0);
	queue_delayed_work(dev->wq, &dev->liveness, VNIC_LIVENESS_PERIOD);
}

void vnic_liveness_init(struct vnic_dev *dev)
{
	INIT_DELAYED_WORK(&dev->liveness, vnic_liveness_work);
}

/* Called after the count of contexts rose. */
void vnic_liveness_watch(struct vnic_dev *dev)
{
	queue_delayed_work(dev->wq, &dev->liveness, VNIC_LIVENESS_PERIOD);
}

void vnic_liveness_stop(struct vnic_dev *dev)
{
	cancel_delayed_work_sync(&dev->liveness);
}
