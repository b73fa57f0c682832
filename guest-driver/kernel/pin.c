// SPDX-License-Identifier: GPL-2.0
/*
 * Pages that stay where they are for as long as they are registered.
 *
 * This device walks page tables and needs nothing of the kind. But behind a
 * port may be one of the host that cannot: then the device asks for it, by a
 * feature, and reads once at registration where the pages are.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "vnic.h"

/* Pages that are taken between two looks at whether somebody else wants to run. */
#define VNIC_PIN_BATCH 512

struct vnic_pin {
	struct list_head node;	/* in the graveyard */
	struct mm_struct *mm;	/* whose limit they count for */
	unsigned long npages;
	bool writable;
	struct page *pages[];
};

static void vnic_pin_free(struct vnic_pin *pin, unsigned long taken)
{
	unpin_user_pages_dirty_lock(pin->pages, taken, pin->writable);
	account_locked_vm(pin->mm, pin->npages, false);
	mmdrop(pin->mm);
	kvfree(pin);
}

/* Of the calling process. Nothing is an error, and nothing. */
struct vnic_pin *vnic_pin_range(u64 start, u64 length, bool writable)
{
	unsigned int flags = FOLL_LONGTERM | (writable ? FOLL_WRITE : 0);
	unsigned long npages, taken = 0;
	struct vnic_pin *pin;
	u64 first, end;
	int got, err;

	if (!length)
		return NULL;
	if (check_add_overflow(start, length, &end) ||
	    check_add_overflow(end, (u64)PAGE_SIZE - 1, &end))
		return ERR_PTR(-EINVAL);
	first = start >> PAGE_SHIFT;
	npages = (end >> PAGE_SHIFT) - first;
	if (npages > totalram_pages())
		return ERR_PTR(-ENOMEM);
	pin = kvzalloc(struct_size(pin, pages, npages), GFP_KERNEL_ACCOUNT);
	if (!pin)
		return ERR_PTR(-ENOMEM);
	pin->npages = npages;
	pin->writable = writable;
	err = account_locked_vm(current->mm, npages, true);
	if (err) {
		kvfree(pin);
		return ERR_PTR(err);
	}
	mmgrab(current->mm);
	pin->mm = current->mm;
	while (taken < npages) {
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		got = pin_user_pages_fast((first + taken) << PAGE_SHIFT,
					  min_t(unsigned long, npages - taken,
						VNIC_PIN_BATCH),
					  flags, pin->pages + taken);
		if (got <= 0) {
			err = got ? got : -EFAULT;
			break;
		}
		taken += got;
		cond_resched();
	}
	if (err) {
		vnic_pin_free(pin, taken);
		return ERR_PTR(err);
	}
	return pin;
}

/* Pages that the device may still hold are kept until it was reset. */
void vnic_pin_release(struct vnic_dev *dev, struct vnic_pin *pin, bool held)
{
	if (!pin)
		return;
	if (!held) {
		vnic_pin_free(pin, pin->npages);
		return;
	}
	atomic_add(pin->npages, &dev->stats.buried);
	spin_lock(&dev->graveyard_lock);
	list_add(&pin->node, &dev->pin_graveyard);
	spin_unlock(&dev->graveyard_lock);
}

/* After the reset. */
void vnic_pin_graveyard_free(struct vnic_dev *dev)
{
	struct vnic_pin *pin, *next;

	list_for_each_entry_safe(pin, next, &dev->pin_graveyard, node) {
		list_del(&pin->node);
		vnic_pin_free(pin, pin->npages);
	}
}
