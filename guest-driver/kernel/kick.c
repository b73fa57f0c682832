// SPDX-License-Identifier: GPL-2.0
/*
 * The kick page: processes wake sleeping workers by themselves, by writing to
 * the notify register of the kick queue. This finds out where that register
 * is, and that it is alone in its page.
 */
#include <linux/pci.h>
#include <linux/pgtable.h>
#include <linux/virtio_config.h>
#include <uapi/linux/virtio_pci.h>

#include "vnic.h"

/* Finds the first VIRTIO capability of a type; 0 if there is none. */
static int vnic_pci_cap(struct pci_dev *pdev, u8 type)
{
	int pos;
	u8 found;

	for (pos = pci_find_capability(pdev, PCI_CAP_ID_VNDR); pos;
	     pos = pci_find_next_capability(pdev, pos, PCI_CAP_ID_VNDR)) {
		pci_read_config_byte(pdev, pos + offsetof(struct virtio_pci_cap,
							  cfg_type), &found);
		if (found == type)
			return pos;
	}
	return 0;
}

static struct pci_dev *vnic_pci_dev(struct virtio_device *vdev)
{
	struct device *parent = vdev->dev.parent;

	return parent && dev_is_pci(parent) ? to_pci_dev(parent) : NULL;
}

/*
 * Whether the configuration space is there and large enough to look for the
 * magic; the device may be something else altogether.
 */
bool vnic_has_config(struct virtio_device *vdev)
{
	struct pci_dev *pdev = vnic_pci_dev(vdev);
	u32 length;
	int pos;

	if (!pdev || !vdev->config->get)
		return false;
	pos = vnic_pci_cap(pdev, VIRTIO_PCI_CAP_DEVICE_CFG);
	if (!pos)
		return false;
	pci_read_config_dword(pdev, pos + offsetof(struct virtio_pci_cap,
						   length), &length);
	return length >= sizeof(struct vnic_config);
}

int vnic_kick_locate(struct vnic_dev *dev)
{
	struct device *log = &dev->vdev->dev;
	struct pci_dev *pdev = vnic_pci_dev(dev->vdev);
	u32 offset, length, multiplier;
	u64 at;
	u8 bar;
	int pos;

	pos = pdev ? vnic_pci_cap(pdev, VIRTIO_PCI_CAP_NOTIFY_CFG) : 0;
	if (!pos) {
		dev_err(log, "only virtio-pci devices have a kick page\n");
		return -ENODEV;
	}
	pci_read_config_byte(pdev, pos + offsetof(struct virtio_pci_cap, bar),
			     &bar);
	pci_read_config_dword(pdev, pos + offsetof(struct virtio_pci_cap,
						   offset), &offset);
	pci_read_config_dword(pdev, pos + offsetof(struct virtio_pci_cap,
						   length), &length);
	pci_read_config_dword(pdev, pos + offsetof(struct virtio_pci_notify_cap,
						   notify_off_multiplier),
			      &multiplier);
	if (multiplier < PAGE_SIZE) {
		dev_err(log,
			"queues share a notify page: give the device page-per-vq=on\n");
		return -EINVAL;
	}

	/* The notify offset of a queue is its index. */
	at = (u64)multiplier * VNIC_VQ_KICK;
	if (bar >= PCI_STD_NUM_BARS || at + PAGE_SIZE > length ||
	    (u64)offset + length > pci_resource_len(pdev, bar)) {
		dev_err(log, "the notify region ends before the kick page\n");
		return -EINVAL;
	}
	dev->kick_phys = pci_resource_start(pdev, bar) + offset + at;

	/* Where virtio-pci itself found the register: must be the same place. */
	if (slow_virt_to_phys(dev->kick_vq->priv) != dev->kick_phys) {
		dev_err(log, "the kick queue's notify register is not at %pa\n",
			&dev->kick_phys);
		return -EINVAL;
	}
	return 0;
}
