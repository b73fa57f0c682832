// SPDX-License-Identifier: GPL-2.0
/*
 * Address spaces of processes: the device walks the page tables of the
 * process, and hears of every change through the MMU notifier.
 *
 * The notifier is the one that follows the flush of the processor's own TLB.
 * It may not sleep and cannot ask the device anything: it publishes what
 * became invalid, and waits for the workers that are inside a burst just now
 * (see the epoch page in the ABI).
 *
 * Before the tables of a dying process are freed, the release callback takes
 * the address space away from the device. That may happen long before the
 * context goes, if its file is also held by somebody else, or after it; the
 * device is told exactly once.
 */
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <asm/barrier.h>
#include <asm/io.h>

#include "vnic.h"

/*
 * Waits until every burst that may have begun before the generation was
 * published is over.
 */
static void vnic_quiesce(struct vnic_dev *dev)
{
	u64 deadline = 0;
	bool waited = false;
	u32 i, spins;

	/*
	 * Pairs with the full fence of a worker between making its slot odd
	 * and reading the generation: either the worker sees the generation,
	 * or this sees the odd slot.
	 */
	virt_mb();
	for (i = 0; i < dev->caps.num_workers; i++) {
		const __le64 *slot = &dev->epoch[i].epoch;
		__le64 seen = READ_ONCE(*slot);

		if (!(le64_to_cpu(seen) & 1))
			continue;
		waited = true;
		for (spins = 1; READ_ONCE(*slot) == seen; spins++) {
			cpu_relax();
			if (spins % 128)
				continue;
			if (vnic_dead(dev))
				return;
			if (!deadline)
				deadline = ktime_get_mono_fast_ns() +
					   VNIC_QUIESCE_LIMIT_NS;
			else if (ktime_get_mono_fast_ns() > deadline) {
				vnic_kill(dev, "a worker did not finish its burst");
				return;
			}
		}
	}
	/*
	 * Pairs with the release of a worker that makes its slot even: its
	 * accesses come before what follows here, the freeing of pages.
	 */
	virt_mb();
	if (waited)
		atomic64_inc(&dev->stats.invalidation_waits);
}

/*
 * Waits until the device has acknowledged a generation: what it holds for a
 * device of the host does not end with a burst.
 */
static void vnic_wait_for_windows(struct vnic_pasid *pasid, u64 generation)
{
	u64 deadline = ktime_get_mono_fast_ns() + VNIC_QUIESCE_LIMIT_NS;
	struct vnic_dev *dev = pasid->dev;
	u32 spins;
	u64 done;

	iowrite16(VNIC_VQ_KICK, (void __iomem __force *)dev->kick_vq->priv);
	for (spins = 1;; spins++) {
		/* Pairs with the device's release after the pages were taken. */
		done = le64_to_cpu(virt_load_acquire(&pasid->page->acknowledged));
		if ((s64)(generation - done) <= 0)
			return;
		cpu_relax();
		if (spins % 128)
			continue;
		if (vnic_dead(dev))
			return;
		if (ktime_get_mono_fast_ns() > deadline) {
			vnic_kill(dev, "an invalidation was not acknowledged");
			return;
		}
	}
}

static void vnic_invalidate(struct mmu_notifier *mn, struct mm_struct *mm,
			    unsigned long start, unsigned long end)
{
	struct vnic_pasid *pasid = container_of(mn, struct vnic_pasid, mn);
	struct vnic_invalidation_range *entry;
	unsigned long flags;
	u64 generation;

	if (!READ_ONCE(pasid->live))
		return;
	if (end == ~0UL)
		start = 0;

	raw_spin_lock_irqsave(&pasid->lock, flags);
	entry = &pasid->page->ring[pasid->generation % VNIC_INVALIDATION_RING];
	/*
	 * Pairs with the acquiring fence of a worker that was overtaken while
	 * it read the ring: who sees a new entry in place of an old one sees
	 * that the generation had moved on before.
	 */
	virt_store_release(&entry->start, cpu_to_le64(start));
	virt_store_release(&entry->end, cpu_to_le64(end));
	generation = ++pasid->generation;
	/* Pairs with the acquire of a worker that reads the generation. */
	virt_store_release(&pasid->page->generation,
			   cpu_to_le64(generation));
	raw_spin_unlock_irqrestore(&pasid->lock, flags);

	atomic64_inc(&pasid->dev->stats.invalidations);
	/* A dead device still learns of it, should it come back late. */
	if (vnic_dead(pasid->dev))
		return;
	vnic_quiesce(pasid->dev);
	/*
	 * Counted before the device is told of a region: if this sees none, the
	 * device looks at the tables later, and finds what they are now.
	 */
	if (atomic_read(&pasid->regions))
		vnic_wait_for_windows(pasid, generation);
}

/* Tells the device, once, that the tables are going away. */
static void vnic_pasid_quit(struct vnic_pasid *pasid)
{
	struct vnic_cmd_handle body;
	int err;

	mutex_lock(&pasid->unbind_lock);
	if (pasid->id && pasid->unbind) {
		body = (struct vnic_cmd_handle) {
			.handle = cpu_to_le32(pasid->id),
		};
		err = vnic_cmd_run(pasid->dev, pasid->unbind,
				   VNIC_CMD_PASID_UNBIND, &body, NULL);
		pasid->unbind = NULL;
		pasid->lost = vnic_may_keep(err);
		if (err && !pasid->lost)
			dev_warn_ratelimited(&pasid->dev->vdev->dev,
					     "unbinding PASID %u: error %d\n",
					     pasid->id, err);
		WRITE_ONCE(pasid->live, false);
	}
	mutex_unlock(&pasid->unbind_lock);
}

static void vnic_mm_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	vnic_pasid_quit(container_of(mn, struct vnic_pasid, mn));
}

static const struct mmu_notifier_ops vnic_mmu_notifier_ops = {
	.arch_invalidate_secondary_tlbs = vnic_invalidate,
	.release = vnic_mm_release,
};

static void vnic_pasid_free(struct kref *ref)
{
	struct vnic_pasid *pasid = container_of(ref, struct vnic_pasid, ref);

	mmdrop(pasid->mm);
	mutex_destroy(&pasid->unbind_lock);
	kfree(pasid);
}

void vnic_pasid_put(struct vnic_pasid *pasid)
{
	kref_put(&pasid->ref, vnic_pasid_free);
}

/* Looks an address space up, for as long as its context lives. */
struct vnic_pasid *vnic_pasid_get(struct vnic_dev *dev, u32 id)
{
	struct vnic_pasid *pasid;

	xa_lock_irq(&dev->pasids);
	pasid = xa_load(&dev->pasids, id);
	if (pasid)
		kref_get(&pasid->ref);
	xa_unlock_irq(&dev->pasids);
	return pasid;
}

static int vnic_pasid_tell(struct vnic_pasid *pasid)
{
	struct vnic_cmd_pasid_bind body = {
		.root = cpu_to_le64(virt_to_phys(pasid->mm->pgd)),
		.invalidation_page = cpu_to_le64(virt_to_phys(pasid->page)),
		.mode = cpu_to_le32(pgtable_l5_enabled() ?
				    VNIC_PAGING_X86_LEVEL5 :
				    VNIC_PAGING_X86_LEVEL4),
	};
	struct vnic_reply_handle reply;
	int err;

	/* Before the command: the device may walk before the reply is here. */
	WRITE_ONCE(pasid->live, true);
	err = vnic_cmd(pasid->dev, VNIC_CMD_PASID_BIND, &body, sizeof(body),
		       &reply, sizeof(reply));
	if (err)
		return err;
	pasid->id = le32_to_cpu(reply.handle);
	return pasid->id ? 0 : -EPROTO;
}

/* Binds the address space of the calling process. */
struct vnic_pasid *vnic_pasid_bind(struct vnic_dev *dev)
{
	struct vnic_pasid *pasid;
	int err;

	pasid = kzalloc(sizeof(*pasid), GFP_KERNEL_ACCOUNT);
	if (!pasid)
		return ERR_PTR(-ENOMEM);
	kref_init(&pasid->ref);
	mutex_init(&pasid->unbind_lock);
	raw_spin_lock_init(&pasid->lock);
	pasid->dev = dev;
	pasid->mm = current->mm;
	mmgrab(pasid->mm);

	err = -ENOMEM;
	pasid->unbind = vnic_cmd_alloc(sizeof(struct vnic_cmd_handle), 0,
				       GFP_KERNEL_ACCOUNT);
	if (!pasid->unbind)
		goto err_put;
	pasid->mem = vnic_mem_alloc(dev, 1);
	if (!pasid->mem)
		goto err_cmd;
	pasid->page = page_address(pasid->mem->pages[0]);

	pasid->mn.ops = &vnic_mmu_notifier_ops;
	err = mmu_notifier_register(&pasid->mn, pasid->mm);
	if (err)
		goto err_mem;

	err = vnic_pasid_tell(pasid);
	if (err)
		goto err_notifier;
	err = xa_insert_irq(&dev->pasids, pasid->id, pasid, GFP_KERNEL_ACCOUNT);
	if (err)
		goto err_notifier;
	atomic_inc(&dev->stats.pasid);
	return pasid;

err_notifier:
	mmu_notifier_unregister(&pasid->mn, pasid->mm);
err_mem:
	vnic_mem_release(pasid->mem, pasid->lost || vnic_may_have(err));
err_cmd:
	vnic_cmd_free(pasid->unbind);
err_put:
	vnic_pasid_put(pasid);
	return ERR_PTR(err);
}

/* Ends a binding, whether or not the process is still there. */
void vnic_pasid_unbind(struct vnic_pasid *pasid)
{
	struct vnic_dev *dev = pasid->dev;

	/* Advice that waits for its turn comes to nothing. */
	WRITE_ONCE(pasid->closed, true);
	/*
	 * Calls the release callback if the process lives, waits for it if it
	 * runs elsewhere; after this no callback runs.
	 */
	mmu_notifier_unregister(&pasid->mn, pasid->mm);
	xa_erase_irq(&dev->pasids, pasid->id);
	vnic_mem_release(pasid->mem, pasid->lost);
	atomic_dec(&dev->stats.pasid);
	vnic_pasid_put(pasid);
}
