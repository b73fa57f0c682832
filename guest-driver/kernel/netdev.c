// SPDX-License-Identifier: GPL-2.0
/*
 * Pairing: the RDMA device exists for as long as the network device that it
 * belongs to. GIDs are the addresses of that device, and the port's state is
 * the state of its link, unless what carries the port to other hosts is gone
 * and nobody else is left that it reaches.
 */
#include <linux/etherdevice.h>
#include <linux/if_arp.h>
#include <linux/moduleparam.h>
#include <linux/rtnetlink.h>

#include "vnic.h"

static char *netdev;
module_param(netdev, charp, 0444);
MODULE_PARM_DESC(netdev,
		 "network device to pair with, if the configuration names no MAC address");

enum ib_port_state vnic_port_state(struct vnic_ib *ib)
{
	return !vnic_dead(ib->dev) &&
	       READ_ONCE(ib->dev->wire) != VNIC_WIRE_DOWN &&
	       netif_running(ib->ndev) && netif_carrier_ok(ib->ndev) ?
		IB_PORT_ACTIVE : IB_PORT_DOWN;
}

static bool vnic_netdev_matches(struct vnic_dev *dev, struct net_device *ndev)
{
	const u8 *mac = dev->caps.mac;

	/* Bridges and such carry the address of a device, but are none. */
	if (ndev->type != ARPHRD_ETHER || !ndev->dev.parent ||
	    ndev->reg_state != NETREG_REGISTERED)
		return false;
	if (!is_zero_ether_addr(mac))
		return ether_addr_equal(mac, ndev->perm_addr) ||
		       ether_addr_equal(mac, ndev->dev_addr);
	return !netdev || !strcmp(netdev, ndev->name);
}

/* Returns the device to pair with, with a reference, or NULL. */
static struct net_device *vnic_netdev_find(struct vnic_dev *dev)
{
	struct net_device *ndev, *found = NULL;

	rtnl_lock();
	if (dev->ib && dev->ib->ndev->reg_state == NETREG_REGISTERED)
		found = dev->ib->ndev;
	else
		for_each_netdev(&init_net, ndev)
			if (vnic_netdev_matches(dev, ndev)) {
				found = ndev;
				break;
			}
	if (found)
		dev_hold(found);
	rtnl_unlock();
	return found;
}

static void vnic_pair_work(struct work_struct *work)
{
	struct vnic_dev *dev = container_of(work, struct vnic_dev, pair_work);
	struct net_device *ndev = NULL;
	struct vnic_ib *ib;

	mutex_lock(&dev->pair_lock);
	if (!dev->removing)
		ndev = vnic_netdev_find(dev);
	if (dev->ib && dev->ib->ndev != ndev) {
		vnic_ib_unregister(dev->ib);
		dev->ib = NULL;
	}
	if (ndev && !dev->ib && !vnic_dead(dev)) {
		ib = vnic_ib_register(dev, ndev);
		if (IS_ERR(ib))
			dev_err(&dev->vdev->dev,
				"cannot register the RDMA device: error %ld\n",
				PTR_ERR(ib));
		else
			dev->ib = ib;
	}
	if (ndev)
		dev_put(ndev);
	mutex_unlock(&dev->pair_lock);
}

static void vnic_port_work(struct work_struct *work)
{
	struct vnic_dev *dev = container_of(work, struct vnic_dev, port_work);
	struct ib_event event = { .element.port_num = 1 };
	enum ib_port_state state, before;
	bool wire, up;
	int now;

	mutex_lock(&dev->pair_lock);
	if (dev->ib) {
		now = READ_ONCE(dev->wire);
		state = vnic_port_state(dev->ib);
		before = dev->ib->port_state;
		wire = now != dev->ib->wire;
		dev->ib->port_state = state;
		dev->ib->wire = now;
		event.device = &dev->ib->ibdev;
		up = state != before ? state == IB_PORT_ACTIVE :
				       now == VNIC_WIRE_UP;
		event.event = up ? IB_EVENT_PORT_ACTIVE : IB_EVENT_PORT_ERR;
		/*
		 * A port that was and stays down has no news of its wire. The
		 * core knows of the network device, and of nothing else.
		 */
		if (state != before ?
		    !VNIC_CORE_REPORTS_PORT || wire || vnic_dead(dev) :
		    wire && state == IB_PORT_ACTIVE)
			ib_dispatch_event(&event);
	}
	mutex_unlock(&dev->pair_lock);
}

/* Any context. */
void vnic_wire_changed(struct vnic_dev *dev, int wire)
{
	WRITE_ONCE(dev->wire, wire);
	vnic_port_changed(dev);
}

void vnic_port_changed(struct vnic_dev *dev)
{
	queue_work(dev->wq, &dev->port_work);
}

static int vnic_netdev_event(struct notifier_block *nb, unsigned long event,
			     void *ptr)
{
	struct vnic_dev *dev = container_of(nb, struct vnic_dev, netdev_nb);

	/* RTNL is held, which registration takes: hence the work items. */
	switch (event) {
	case NETDEV_REGISTER:
	case NETDEV_UNREGISTER:
	case NETDEV_CHANGEADDR:
	case NETDEV_CHANGENAME:
		queue_work(dev->wq, &dev->pair_work);
		break;
	case NETDEV_UP:
	case NETDEV_DOWN:
	case NETDEV_CHANGE:
		queue_work(dev->wq, &dev->port_work);
		break;
	}
	return NOTIFY_DONE;
}

int vnic_pair_start(struct vnic_dev *dev)
{
	bool paired;
	int err;

	dev->netdev_nb.notifier_call = vnic_netdev_event;
	/* Replays the registration of what is already there. */
	err = register_netdevice_notifier(&dev->netdev_nb);
	if (err)
		return err;
	flush_work(&dev->pair_work);
	mutex_lock(&dev->pair_lock);
	paired = dev->ib;
	mutex_unlock(&dev->pair_lock);
	if (paired)
		return 0;
	if (is_zero_ether_addr(dev->caps.mac))
		dev_info(&dev->vdev->dev, "waiting for network device %s\n",
			 netdev ?: "of any name");
	else
		dev_info(&dev->vdev->dev,
			 "waiting for the network device with address %pM\n",
			 dev->caps.mac);
	return 0;
}

void vnic_pair_stop(struct vnic_dev *dev)
{
	unregister_netdevice_notifier(&dev->netdev_nb);
	mutex_lock(&dev->pair_lock);
	dev->removing = true;
	mutex_unlock(&dev->pair_lock);
	queue_work(dev->wq, &dev->pair_work);
	flush_work(&dev->pair_work);
	flush_work(&dev->port_work);
}

void vnic_pair_init(struct vnic_dev *dev)
{
	mutex_init(&dev->pair_lock);
	INIT_WORK(&dev->pair_work, vnic_pair_work);
	INIT_WORK(&dev->port_work, vnic_port_work);
}
