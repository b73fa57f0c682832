// SPDX-License-Identifier: GPL-2.0
/* Driver of the Tongtu vNIC: the virtio device from probe to remove. */
#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

#include "vnic.h"

/* Optional features that this driver knows how to use. */
#define VNIC_FEATURES							\
	(VNIC_F_ATOMIC | VNIC_F_PIN | VNIC_F_IMPLICIT_MR |		\
	 VNIC_F_ACKNOWLEDGE | VNIC_F_PORT_EVENTS)

/* Any context. The rest happens in process context, soon. */
void vnic_kill(struct vnic_dev *dev, const char *reason)
{
	if (test_and_set_bit(VNIC_DEAD, &dev->flags))
		return;
	dev->dead_reason = reason;
	queue_work(dev->wq, &dev->dead_work);
}

static void vnic_dead_work(struct work_struct *work)
{
	struct vnic_dev *dev = container_of(work, struct vnic_dev, dead_work);
	struct ib_event event = {
		.event = IB_EVENT_DEVICE_FATAL,
		.element.port_num = 1,
	};

	dev_err(&dev->vdev->dev, "the device is dead: %s\n", dev->dead_reason);
	vnic_ctrlq_abort(dev);
	/* In case it only slept: it must not go on as if nothing happened. */
	vnic_cmd_post(dev, VNIC_CMD_SHUTDOWN);
	vnic_qps_fatal(dev, 0);
	mutex_lock(&dev->pair_lock);
	if (dev->ib) {
		event.device = &dev->ib->ibdev;
		ib_dispatch_event(&event);
	}
	mutex_unlock(&dev->pair_lock);
	vnic_port_changed(dev);
}

static int vnic_read_caps(struct vnic_dev *dev)
{
	struct vnic_caps *caps = &dev->caps;
	struct vnic_config cfg;

	virtio_cread_bytes(dev->vdev, 0, &cfg, sizeof(cfg));
	caps->version = le32_to_cpu(cfg.version);
	if (caps->version >> 16 != VNIC_ABI_VERSION >> 16) {
		dev_err(&dev->vdev->dev, "interface version %u.%u, need %u\n",
			caps->version >> 16, caps->version & 0xffff,
			VNIC_ABI_VERSION >> 16);
		return -ENODEV;
	}
	caps->offered = le64_to_cpu(cfg.features);
	caps->features = caps->offered & VNIC_FEATURES;
	caps->max_qp = le32_to_cpu(cfg.max_qp);
	caps->max_cq = le32_to_cpu(cfg.max_cq);
	caps->max_mr = le32_to_cpu(cfg.max_mr);
	caps->max_pd = le32_to_cpu(cfg.max_pd);
	caps->max_ctx = le32_to_cpu(cfg.max_ctx);
	caps->max_sq_depth = le32_to_cpu(cfg.max_sq_depth);
	caps->max_rq_depth = le32_to_cpu(cfg.max_rq_depth);
	caps->max_cq_depth = le32_to_cpu(cfg.max_cq_depth);
	caps->max_send_sge = min_t(u32, le32_to_cpu(cfg.max_sge),
				   (VNIC_WQE_STRIDE_MAX - VNIC_SEND_WQE_PAYLOAD) /
				   sizeof(struct vnic_sge));
	caps->max_recv_sge = min_t(u32, le32_to_cpu(cfg.max_sge),
				   (VNIC_WQE_STRIDE_MAX - VNIC_RECV_WQE_PAYLOAD) /
				   sizeof(struct vnic_sge));
	caps->max_inline = min_t(u32, le32_to_cpu(cfg.max_inline),
				 VNIC_WQE_STRIDE_MAX - VNIC_SEND_WQE_PAYLOAD);
	caps->max_rd_atomic = le32_to_cpu(cfg.max_rd_atomic);
	caps->max_msg_size = le32_to_cpu(cfg.max_msg_size);
	caps->max_mr_size = le64_to_cpu(cfg.max_mr_size);
	if (!caps->max_mr_size || caps->features & VNIC_F_IMPLICIT_MR)
		caps->max_mr_size = U64_MAX;
	caps->max_gid = le32_to_cpu(cfg.max_gid);
	caps->num_workers = le32_to_cpu(cfg.num_workers);
	caps->active_mtu = cfg.active_mtu;
	memcpy(caps->mac, cfg.mac, sizeof(caps->mac));

	/* Numbers that are used in shifts, loops and table sizes. */
	if (!is_power_of_2(caps->max_sq_depth) ||
	    !is_power_of_2(caps->max_rq_depth) ||
	    !is_power_of_2(caps->max_cq_depth) ||
	    !caps->max_send_sge || !caps->max_gid || caps->max_gid > 256 ||
	    !caps->num_workers || caps->num_workers > VNIC_EPOCH_SLOTS ||
	    caps->active_mtu < IB_MTU_256 || caps->active_mtu > IB_MTU_4096) {
		dev_err(&dev->vdev->dev, "limits that make no sense\n");
		return -EINVAL;
	}
	return 0;
}

static int vnic_find_vqs(struct vnic_dev *dev)
{
	struct virtqueue_info info[VNIC_VQ_COUNT] = {
		[VNIC_VQ_CTRL] = { "ctrl", vnic_ctrlq_done },
		[VNIC_VQ_EVENT] = { "event", vnic_eventq_done },
		[VNIC_VQ_PAGE_REQUEST] = { "page-request", vnic_faultq_done },
		[VNIC_VQ_KICK] = { "kick", NULL },
	};
	struct virtqueue *vqs[VNIC_VQ_COUNT];
	int err;

	err = virtio_find_vqs(dev->vdev, VNIC_VQ_COUNT, vqs, info, NULL);
	if (err)
		return err;
	dev->ctrl.vq = vqs[VNIC_VQ_CTRL];
	dev->event.vq = vqs[VNIC_VQ_EVENT];
	dev->fault.vq = vqs[VNIC_VQ_PAGE_REQUEST];
	dev->kick_vq = vqs[VNIC_VQ_KICK];
	return 0;
}

static int vnic_start(struct vnic_dev *dev)
{
	struct vnic_cmd_init body = {
		.version = cpu_to_le32(VNIC_ABI_VERSION),
		.features = cpu_to_le64(dev->caps.features),
		.epoch_page = cpu_to_le64(virt_to_phys(dev->epoch)),
	};

	virtio_device_ready(dev->vdev);
	return vnic_cmd(dev, VNIC_CMD_INIT, &body, sizeof(body), NULL, 0);
}

/*
 * Takes the device back to where it touches nothing, then frees what it could
 * have touched. Nobody uses it any more.
 */
static void vnic_stop(struct vnic_dev *dev)
{
	unsigned long flags;

	vnic_faultq_stop(dev);
	if (!vnic_dead(dev))
		vnic_cmd_handle(dev, VNIC_CMD_SHUTDOWN, 0);
	/* Nobody waits for a command now, and nobody can send another. */
	spin_lock_irqsave(&dev->ctrl.lock, flags);
	set_bit(VNIC_CLOSED, &dev->flags);
	spin_unlock_irqrestore(&dev->ctrl.lock, flags);
	virtio_reset_device(dev->vdev);
	vnic_faultq_drain(dev);
	vnic_eventq_drain(dev);
	flush_workqueue(dev->wq);
	vnic_ctrlq_drain(dev);
	dev->vdev->config->del_vqs(dev->vdev);
	vnic_graveyard_free(dev);
	vnic_pin_graveyard_free(dev);
}

static struct vnic_dev *vnic_dev_alloc(struct virtio_device *vdev)
{
	struct vnic_dev *dev;

	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev)
		return NULL;
	dev->vdev = vdev;
	INIT_WORK(&dev->dead_work, vnic_dead_work);
	spin_lock_init(&dev->graveyard_lock);
	INIT_LIST_HEAD(&dev->graveyard);
	INIT_LIST_HEAD(&dev->pin_graveyard);
	xa_init_flags(&dev->pasids, XA_FLAGS_LOCK_IRQ);
	xa_init_flags(&dev->cqs, XA_FLAGS_ALLOC | XA_FLAGS_LOCK_IRQ);
	xa_init_flags(&dev->qps, XA_FLAGS_ALLOC | XA_FLAGS_LOCK_IRQ);
	vnic_ctrlq_init(dev);
	vnic_liveness_init(dev);
	vnic_pair_init(dev);

	dev->epoch = (void *)get_zeroed_page(GFP_KERNEL);
	if (!dev->epoch)
		goto err_free;
	dev->wq = alloc_workqueue("vnic_rdma", WQ_UNBOUND, 0);
	if (!dev->wq)
		goto err_epoch;
	if (vnic_eventq_init(dev))
		goto err_wq;
	if (vnic_faultq_init(dev))
		goto err_eventq;
	if (vnic_advice_init(dev))
		goto err_faultq;
	if (vnic_mrs_init(dev))
		goto err_advice;
	return dev;

err_advice:
	vnic_advice_exit(dev);
err_faultq:
	vnic_faultq_exit(dev);
err_eventq:
	vnic_eventq_exit(dev);
err_wq:
	destroy_workqueue(dev->wq);
err_epoch:
	free_page((unsigned long)dev->epoch);
err_free:
	kfree(dev);
	return NULL;
}

static void vnic_dev_free(struct vnic_dev *dev)
{
	vnic_mrs_exit(dev);
	vnic_advice_exit(dev);
	vnic_faultq_exit(dev);
	vnic_eventq_exit(dev);
	destroy_workqueue(dev->wq);
	free_page((unsigned long)dev->epoch);
	xa_destroy(&dev->pasids);
	xa_destroy(&dev->cqs);
	xa_destroy(&dev->qps);
	mutex_destroy(&dev->pair_lock);
	kfree(dev);
}

static int vnic_probe(struct virtio_device *vdev)
{
	struct vnic_dev *dev;
	__le64 magic;
	int err;

	if (!vnic_has_config(vdev))
		return -ENODEV;
	virtio_cread_bytes(vdev, 0, &magic, sizeof(magic));
	/* Silently: under the stand-in id it may be anybody's device. */
	if (le64_to_cpu(magic) != VNIC_MAGIC)
		return -ENODEV;
	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "a legacy device\n");
		return -ENODEV;
	}

	dev = vnic_dev_alloc(vdev);
	if (!dev)
		return -ENOMEM;
	vdev->priv = dev;
	err = vnic_read_caps(dev);
	if (err)
		goto err_free;
	err = vnic_find_vqs(dev);
	if (err)
		goto err_free;
	err = vnic_kick_locate(dev);
	if (err)
		goto err_vqs;
	err = vnic_start(dev);
	if (err) {
		dev_err(&vdev->dev, "cannot start the device: error %d\n", err);
		goto err_stop;
	}
	/*
	 * Once, for nothing: hypervisors make ready what a first access needs,
	 * so that no program has to wait for that, and some cannot do it right
	 * after a page fault.
	 */
	virtqueue_notify(dev->kick_vq);
	vnic_eventq_fill(dev);
	vnic_faultq_fill(dev);
	err = vnic_pair_start(dev);
	if (err)
		goto err_stop;
	return 0;

err_stop:
	vnic_stop(dev);
	goto err_free;
err_vqs:
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
err_free:
	vnic_dev_free(dev);
	return err;
}

static void vnic_remove(struct virtio_device *vdev)
{
	struct vnic_dev *dev = vdev->priv;

	vnic_pair_stop(dev);
	vnic_liveness_stop(dev);
	vnic_stop(dev);
	vnic_dev_free(dev);
}

#ifdef CONFIG_PM_SLEEP
/* The device would lose every queue pair, and programs cannot be asked. */
static int vnic_freeze(struct virtio_device *vdev)
{
	dev_err(&vdev->dev, "cannot be suspended: unload vnic_rdma first\n");
	return -EBUSY;
}
#endif

static const struct virtio_device_id vnic_ids[] = {
	{ VNIC_VIRTIO_ID_RDMA, VIRTIO_DEV_ANY_ID },
	{ VNIC_VIRTIO_ID_STAND_IN, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, vnic_ids);

static struct virtio_driver vnic_driver = {
	.driver.name = KBUILD_MODNAME,
	.id_table = vnic_ids,
	.probe = vnic_probe,
	.remove = vnic_remove,
#ifdef CONFIG_PM_SLEEP
	.freeze = vnic_freeze,
#endif
};

static int __init vnic_init(void)
{
	int err;

	/*
	 * Without it there is an RDMA device that no program can open. Not a
	 * soft dependency: modprobe -r fails if one is in use by others.
	 */
	request_module("ib_uverbs");
	vnic_stats_init();
	err = register_virtio_driver(&vnic_driver);
	if (err)
		vnic_stats_exit();
	return err;
}
module_init(vnic_init);

static void __exit vnic_exit(void)
{
	unregister_virtio_driver(&vnic_driver);
	vnic_stats_exit();
}
module_exit(vnic_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Tongtu vNIC, a virtual RDMA device");
