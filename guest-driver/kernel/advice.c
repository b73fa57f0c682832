// SPDX-License-Identifier: GPL-2.0
/*
 * Advice about memory: a process says which parts of its regions it is going
 * to use.
 *
 * The device keeps no translations that somebody could fill in for it: it
 * walks the tables of the process. So to prefetch is to make pages present,
 * just as a page request would, only before the device misses them.
 *
 * What a region looks like is copied when the advice is taken. Should the
 * region change or go before its pages came, they come for nothing: they are
 * the process's own in any case.
 *
 * Advice is served in batches, each at the end of the queue, so that nobody's
 * gigabytes keep others waiting. A context has a bounded number of them under
 * way; whoever asks for more serves them himself.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "vnic.h"

/* Advice of one context that waits or is being served. */
#define VNIC_ADVICE_PENDING	16
/* Batches served at the same time. */
#define VNIC_ADVICE_WORKERS	4

struct vnic_advice {
	struct work_struct work;
	struct vnic_pasid *pasid;
	bool write;
	u32 count;
	u32 next;
	struct vnic_range {
		unsigned long start;
		u64 pages;
	} ranges[] __counted_by(count);
};

static void vnic_advice_free(struct vnic_advice *advice)
{
	if (advice->pasid)
		vnic_pasid_put(advice->pasid);
	kvfree(advice);
}

/* Where in the process a part of a region lies. */
static int vnic_advice_place(const struct vnic_mr *mr, const struct ib_sge *sge,
			     struct vnic_range *range)
{
	u64 offset = sge->addr - mr->iova;
	u64 start, end;

	if (sge->addr < mr->iova || offset > mr->length ||
	    sge->length > mr->length - offset)
		return -EFAULT;
	/* No sum wraps: the device agreed to the region. */
	start = mr->start + offset;
	end = start + sge->length;
	if (end > TASK_SIZE_MAX)
		return -EFAULT;
	range->start = PAGE_ALIGN_DOWN(start);
	range->pages = sge->length ?
		(PAGE_ALIGN(end) - range->start) >> PAGE_SHIFT : 0;
	return 0;
}

/* Finds one range, and the address space on the way. */
static int vnic_advice_resolve(struct vnic_dev *dev, struct vnic_advice *advice,
			       u32 pd, const struct ib_sge *sge,
			       struct vnic_range *range)
{
	struct vnic_mr *mr;
	int err;

	spin_lock(&dev->mr_lock);
	mr = vnic_mr_find(dev, sge->lkey);
	if (!mr)
		err = -ENOENT;
	else if (mr->pd != pd)
		err = -EPERM;
	else if (advice->write && !(mr->access & VNIC_ACCESS_LOCAL_WRITE))
		err = -EPERM;
	else
		err = vnic_advice_place(mr, sge, range);
	/* All regions of a domain are of one context, and so of one space. */
	if (!err && !advice->pasid) {
		kref_get(&mr->pasid->ref);
		advice->pasid = mr->pasid;
	}
	spin_unlock(&dev->mr_lock);
	return err;
}

/* Serves one batch. An error is about the range in hand. */
static int vnic_advice_step(struct vnic_dev *dev, struct vnic_advice *advice)
{
	struct vnic_range *range = &advice->ranges[advice->next];
	struct mm_struct *mm = advice->pasid->mm;
	u64 done;

	if (!range->pages)
		goto next;
	if (!mmget_not_zero(mm))
		return -ESRCH;
	done = vnic_fault_range(dev, mm, range->start, range->pages,
				advice->write);
	mmput_async(mm);
	if (!done)
		return -EFAULT;
	atomic64_add(done, &dev->stats.advised_pages);
	range->start += done << PAGE_SHIFT;
	range->pages -= done;
	if (range->pages)
		return 0;
next:
	advice->next++;
	return 0;
}

/* Serves all of it in the caller, who gives up only when he dies. */
static int vnic_advice_serve(struct vnic_dev *dev, struct vnic_advice *advice)
{
	int err;

	while (advice->next < advice->count) {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (vnic_dead(dev))
			return -EIO;
		err = vnic_advice_step(dev, advice);
		if (err)
			return err;
		cond_resched();
	}
	return 0;
}

static void vnic_advice_work(struct work_struct *work)
{
	struct vnic_advice *advice =
		container_of(work, struct vnic_advice, work);
	struct vnic_pasid *pasid = advice->pasid;
	struct vnic_dev *dev = pasid->dev;
	int err;

	/* The mm goes its own way; nobody waits for what is left here. */
	if (!READ_ONCE(pasid->closed) && !vnic_dead(dev)) {
		err = vnic_advice_step(dev, advice);
		/* Nobody is there to be told; the other ranges are no worse. */
		if (err == -EFAULT)
			advice->next++;
		if (err != -ESRCH && advice->next < advice->count) {
			queue_work(dev->advice_wq, &advice->work);
			return;
		}
	}
	atomic_dec(&pasid->advices);
	vnic_advice_free(advice);
}

int vnic_advise_mr(struct ib_pd *ibpd, enum ib_uverbs_advise_mr_advice what,
		   u32 flags, struct ib_sge *sg_list, u32 num_sge,
		   struct uverbs_attr_bundle *attrs)
{
	struct vnic_dev *dev = to_vdev(ibpd->device);
	struct vnic_advice *advice;
	u32 i;
	int err;

	switch (what) {
	case IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH:
	case IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE:
	case IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT:
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (!num_sge)
		return 0;

	advice = kvzalloc(struct_size(advice, ranges, num_sge),
			  GFP_KERNEL_ACCOUNT);
	if (!advice)
		return -ENOMEM;
	INIT_WORK(&advice->work, vnic_advice_work);
	advice->write = what == IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE;
	advice->count = num_sge;
	for (i = 0; i < num_sge; i++) {
		err = vnic_advice_resolve(dev, advice, to_vpd(ibpd)->handle,
					  &sg_list[i], &advice->ranges[i]);
		if (err)
			goto out;
	}
	/* What is present, the device finds; there is nothing to tell it. */
	err = 0;
	if (what == IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT)
		goto out;

	if (!(flags & IB_UVERBS_ADVISE_MR_FLAG_FLUSH)) {
		if (atomic_inc_return(&advice->pasid->advices) <=
		    VNIC_ADVICE_PENDING) {
			queue_work(dev->advice_wq, &advice->work);
			return 0;
		}
		atomic_dec(&advice->pasid->advices);
	}
	err = vnic_advice_serve(dev, advice);
	if (err == -ESRCH)
		err = -EFAULT;
out:
	vnic_advice_free(advice);
	return err;
}

int vnic_advice_init(struct vnic_dev *dev)
{
	dev->advice_wq = alloc_workqueue("vnic_rdma_advice", WQ_UNBOUND,
					 VNIC_ADVICE_WORKERS);
	return dev->advice_wq ? 0 : -ENOMEM;
}

/* Waits for batches that are being served. All contexts are closed. */
void vnic_advice_exit(struct vnic_dev *dev)
{
	destroy_workqueue(dev->advice_wq);
}
