// SPDX-License-Identifier: GPL-2.0
/*
 * Page requests: the device misses a page of a process and asks for it.
 *
 * A buffer of the queue is also the work item that serves it; it goes back to
 * the device only afterwards, so that the number of requests under way has a
 * bound. A request is served for as far as that is quick and harmless: the
 * device asks again for what is still missing.
 */
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/sched/mm.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/userfaultfd_k.h>

#include "vnic.h"

#define VNIC_FAULT_BUFS		64
/*
 * Every request that has a buffer is served at once: were there fewer workers,
 * a few pages of one process that are slow to come (from a hung file server,
 * say) would hold up those of every other process. That no process gets all
 * the buffers is up to the device, which gives each a share.
 *
 * The kernel divides the number among the nodes of the machine, and a request
 * may come in on any of them.
 */
#define VNIC_FAULT_WORKERS \
	min_t(unsigned int, VNIC_FAULT_BUFS * num_possible_nodes(), WQ_MAX_ACTIVE)
/* Pages of one request that are served before the device is answered. */
#define VNIC_FAULT_BATCH	512
/* After this long the device is answered as soon as there is a page. */
#define VNIC_FAULT_TIME		(HZ / 10)

struct vnic_fault {
	struct work_struct work;
	struct vnic_dev *dev;
	struct vnic_page_request req;	/* written by the device */
};

/*
 * Makes one page present. Called and left with the mmap lock held, which may
 * have been dropped in between.
 */
static int vnic_fault_page(struct mm_struct *mm, unsigned long addr, bool write)
{
	/*
	 * Not FAULT_FLAG_USER: it would leave the handling of a memory cgroup
	 * that is full to a return to user space that a worker never makes.
	 */
	unsigned int base = FAULT_FLAG_REMOTE;
	unsigned int tried = 0;
	struct vm_area_struct *vma;
	unsigned int retry;
	vm_fault_t fault;

	if (write)
		base |= FAULT_FLAG_WRITE;
again:
	vma = vma_lookup(mm, addr);
	if (!vma || !(vma->vm_flags & (write ? VM_WRITE : VM_READ)))
		return -EFAULT;
	/*
	 * Without permission to retry, a page that only a userfaultfd monitor
	 * can provide is an error. To wait for it here would let one process
	 * stop the page requests of all others.
	 */
	retry = userfaultfd_armed(vma) ?
		0 : FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE | tried;

	fault = handle_mm_fault(vma, addr, base | retry, NULL);
	if (fault & VM_FAULT_COMPLETED) {
		mmap_read_lock(mm);
		return 0;
	}
	if (fault & VM_FAULT_RETRY) {
		mmap_read_lock(mm);
		tried = FAULT_FLAG_TRIED;
		goto again;
	}
	return fault & VM_FAULT_ERROR ? -EFAULT : 0;
}

/*
 * Whether to stop early: a page may take as long as a disk does, and somebody
 * may want the lock, the device, or the process to be gone. If the reference
 * that the caller holds is the only one, the process has exited; with several
 * callers, the time tells.
 */
static bool vnic_fault_enough(struct vnic_dev *dev, struct mm_struct *mm,
			      unsigned long until)
{
	return mmap_lock_is_contended(mm) || vnic_dead(dev) ||
	       test_bit(VNIC_DRAINING, &dev->flags) ||
	       atomic_read(&mm->mm_users) == 1 ||
	       time_after(jiffies, until);
}

/*
 * Makes a batch of pages present, or less if somebody else needs the lock.
 * Returns how many: 0 means that the first one cannot be had.
 */
u64 vnic_fault_range(struct vnic_dev *dev, struct mm_struct *mm,
		     unsigned long addr, u64 pages, bool write)
{
	unsigned long until = jiffies + VNIC_FAULT_TIME;
	u64 done;

	pages = min_t(u64, pages, VNIC_FAULT_BATCH);
	mmap_read_lock(mm);
	for (done = 0; done < pages; done++) {
		if (vnic_fault_page(mm, addr + done * PAGE_SIZE, write))
			break;
		if (vnic_fault_enough(dev, mm, until)) {
			done++;
			break;
		}
		cond_resched();
	}
	mmap_read_unlock(mm);
	return done;
}

static u32 vnic_fault_serve(struct vnic_dev *dev,
			    const struct vnic_page_request *req)
{
	u64 start = le64_to_cpu(req->start), length = le64_to_cpu(req->length);
	u32 access = le32_to_cpu(req->access);
	struct vnic_pasid *pasid;
	u64 done, end;
	u32 code;

	if (!PAGE_ALIGNED(start) || !length || !PAGE_ALIGNED(length) ||
	    check_add_overflow(start, length, &end) || !access ||
	    access & ~(VNIC_PAGE_ACCESS_READ | VNIC_PAGE_ACCESS_WRITE))
		return VNIC_PAGE_RESPONSE_INVALID;

	pasid = vnic_pasid_get(dev, le32_to_cpu(req->pasid));
	if (!pasid)
		return VNIC_PAGE_RESPONSE_GONE;
	if (mmget_not_zero(pasid->mm)) {
		done = vnic_fault_range(dev, pasid->mm, start,
					length >> PAGE_SHIFT,
					access & VNIC_PAGE_ACCESS_WRITE);
		atomic64_add(done, &dev->stats.fault_pages);
		code = done ? VNIC_PAGE_RESPONSE_SUCCESS :
			      VNIC_PAGE_RESPONSE_INVALID;
		/* The last user's teardown calls our release: not from here. */
		mmput_async(pasid->mm);
	} else {
		code = VNIC_PAGE_RESPONSE_GONE;
	}
	vnic_pasid_put(pasid);
	return code;
}

static int vnic_fault_post(struct vnic_dev *dev, struct vnic_fault *fault)
{
	struct scatterlist sg;

	sg_init_one(&sg, &fault->req, sizeof(fault->req));
	return virtqueue_add_inbuf(dev->fault.vq, &sg, 1, fault, GFP_ATOMIC);
}

static void vnic_fault_repost(struct vnic_dev *dev, struct vnic_fault *fault)
{
	struct vnic_faultq *q = &dev->fault;
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	if (!test_bit(VNIC_DRAINING, &dev->flags)) {
		vnic_fault_post(dev, fault);
		virtqueue_kick(q->vq);
	}
	spin_unlock_irqrestore(&q->lock, flags);
}

static void vnic_fault_work(struct work_struct *work)
{
	struct vnic_fault *fault = container_of(work, struct vnic_fault, work);
	struct vnic_page_request req = fault->req;
	struct vnic_dev *dev = fault->dev;
	struct vnic_cmd_page_response answer = { .id = req.id };
	u32 code;

	code = vnic_fault_serve(dev, &req);
	switch (code) {
	case VNIC_PAGE_RESPONSE_SUCCESS:
		atomic64_inc(&dev->stats.faults_served);
		break;
	case VNIC_PAGE_RESPONSE_GONE:
		atomic64_inc(&dev->stats.faults_gone);
		break;
	default:
		atomic64_inc(&dev->stats.faults_failed);
	}
	answer.code = cpu_to_le32(code);
	/* The device forgets requests of what was destroyed: no error here. */
	vnic_cmd(dev, VNIC_CMD_PAGE_RESPONSE, &answer, sizeof(answer), NULL, 0);
	vnic_fault_repost(dev, fault);
}

/* Interrupt: page requests have come. */
void vnic_faultq_done(struct virtqueue *vq)
{
	struct vnic_dev *dev = vq->vdev->priv;
	struct vnic_faultq *q = &dev->fault;
	struct vnic_fault *fault;
	unsigned long flags;
	unsigned int len;

	spin_lock_irqsave(&q->lock, flags);
	if (test_bit(VNIC_DRAINING, &dev->flags))
		goto out;
	do {
		virtqueue_disable_cb(vq);
		while ((fault = virtqueue_get_buf(vq, &len))) {
			if (len >= sizeof(fault->req))
				queue_work(q->wq, &fault->work);
			else
				vnic_fault_post(dev, fault);
		}
	} while (!virtqueue_enable_cb(vq));
out:
	spin_unlock_irqrestore(&q->lock, flags);
}

void vnic_faultq_fill(struct vnic_dev *dev)
{
	struct vnic_faultq *q = &dev->fault;
	unsigned long flags;
	int i;

	spin_lock_irqsave(&q->lock, flags);
	for (i = 0; i < VNIC_FAULT_BUFS; i++)
		if (vnic_fault_post(dev, &q->bufs[i]))
			break;
	virtqueue_kick(q->vq);
	spin_unlock_irqrestore(&q->lock, flags);
}

int vnic_faultq_init(struct vnic_dev *dev)
{
	struct vnic_faultq *q = &dev->fault;
	int i;

	spin_lock_init(&q->lock);
	q->bufs = kcalloc(VNIC_FAULT_BUFS, sizeof(*q->bufs), GFP_KERNEL);
	if (!q->bufs)
		return -ENOMEM;
	for (i = 0; i < VNIC_FAULT_BUFS; i++) {
		INIT_WORK(&q->bufs[i].work, vnic_fault_work);
		q->bufs[i].dev = dev;
	}
	q->wq = alloc_workqueue("vnic_rdma_fault", WQ_UNBOUND,
				VNIC_FAULT_WORKERS);
	if (!q->wq) {
		kfree(q->bufs);
		return -ENOMEM;
	}
	return 0;
}

void vnic_faultq_exit(struct vnic_dev *dev)
{
	destroy_workqueue(dev->fault.wq);
	kfree(dev->fault.bufs);
}

/* Waits for what is being served; the device must still answer. */
void vnic_faultq_stop(struct vnic_dev *dev)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->fault.lock, flags);
	set_bit(VNIC_DRAINING, &dev->flags);
	spin_unlock_irqrestore(&dev->fault.lock, flags);
	drain_workqueue(dev->fault.wq);
}

/* After the reset. */
void vnic_faultq_drain(struct vnic_dev *dev)
{
	while (virtqueue_detach_unused_buf(dev->fault.vq))
		;
}
