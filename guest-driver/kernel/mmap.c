// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that the driver shares with the device and with processes: queues,
 * doorbell pages, and the kick page of the device itself.
 *
 * Shared memory is single kernel pages. A process maps them by reference, so
 * that they outlive a disassociation for as long as the mapping stands; they
 * are neither pinned nor locked user memory. The kick page is device memory
 * and is taken away by the RDMA core when the device goes.
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "vnic.h"

static struct vnic_mem *vnic_mem_new(struct vnic_dev *dev, u32 npages)
{
	struct vnic_mem *mem;

	mem = kvzalloc(struct_size(mem, pages, npages), GFP_KERNEL_ACCOUNT);
	if (!mem)
		return NULL;
	kref_init(&mem->ref);
	INIT_LIST_HEAD(&mem->node);
	mem->dev = dev;
	return mem;
}

static void vnic_mem_free(struct kref *ref)
{
	struct vnic_mem *mem = container_of(ref, struct vnic_mem, ref);

	atomic_sub(mem->npages, &mem->dev->stats.pages);
	while (mem->npages)
		__free_page(mem->pages[--mem->npages]);
	kvfree(mem);
}

void vnic_mem_put(struct vnic_mem *mem)
{
	kref_put(&mem->ref, vnic_mem_free);
}

/* Pages filled with zero, charged to the caller. */
struct vnic_mem *vnic_mem_alloc(struct vnic_dev *dev, u32 npages)
{
	struct vnic_mem *mem = vnic_mem_new(dev, npages);

	if (!mem)
		return NULL;
	while (mem->npages < npages) {
		struct page *page = NULL;

		if (!fatal_signal_pending(current))
			page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!page) {
			vnic_mem_put(mem);
			return NULL;
		}
		mem->pages[mem->npages++] = page;
		atomic_inc(&dev->stats.pages);
		cond_resched();
	}
	return mem;
}

/* What stands for the kick page in a context. */
struct vnic_mem *vnic_mem_kick(struct vnic_dev *dev)
{
	struct vnic_mem *mem = vnic_mem_new(dev, 0);

	if (mem)
		mem->kick = true;
	return mem;
}

/* Lets the process map it; balanced by vnic_mem_withdraw(). */
int vnic_mem_publish(struct vnic_mem *mem, struct ib_ucontext *ibuc)
{
	size_t length = mem->kick ? PAGE_SIZE : (size_t)mem->npages << PAGE_SHIFT;
	int err;

	kref_get(&mem->ref);
	err = rdma_user_mmap_entry_insert(ibuc, &mem->entry, length);
	if (err)
		vnic_mem_put(mem);
	return err;
}

void vnic_mem_withdraw(struct vnic_mem *mem)
{
	rdma_user_mmap_entry_remove(&mem->entry);
}

u64 vnic_mem_offset(struct vnic_mem *mem)
{
	return rdma_user_mmap_get_offset(&mem->entry);
}

/* The RDMA core: nobody can map this entry any more. */
void vnic_mmap_free(struct rdma_user_mmap_entry *entry)
{
	vnic_mem_put(container_of(entry, struct vnic_mem, entry));
}

/*
 * Ends the owner's use. Pages that the device may still hold are kept until it
 * was reset.
 */
void vnic_mem_release(struct vnic_mem *mem, bool held)
{
	struct vnic_dev *dev = mem->dev;

	if (!held) {
		vnic_mem_put(mem);
		return;
	}
	atomic_add(mem->npages, &dev->stats.buried);
	spin_lock(&dev->graveyard_lock);
	list_add(&mem->node, &dev->graveyard);
	spin_unlock(&dev->graveyard_lock);
}

/* After the reset. */
void vnic_graveyard_free(struct vnic_dev *dev)
{
	struct vnic_mem *mem, *next;

	list_for_each_entry_safe(mem, next, &dev->graveyard, node) {
		list_del(&mem->node);
		vnic_mem_put(mem);
	}
	atomic_set(&dev->stats.buried, 0);
}

/* Makes the page list of a command; it is freed together with the command. */
__le64 *vnic_mem_list(const struct vnic_mem *mem, struct vnic_page_list *wire)
{
	__le64 *list;
	u32 i;

	list = kmalloc_array(mem->npages, sizeof(*list), GFP_KERNEL_ACCOUNT);
	if (!list)
		return NULL;
	for (i = 0; i < mem->npages; i++)
		list[i] = cpu_to_le64(page_to_phys(mem->pages[i]));
	wire->list = cpu_to_le64(virt_to_phys(list));
	wire->count = cpu_to_le32(mem->npages);
	return list;
}

/* Zeroes whole pages from offset on. */
void vnic_mem_clear(struct vnic_mem *mem, size_t offset, size_t length)
{
	u32 i = offset >> PAGE_SHIFT;
	u32 end = min_t(size_t, mem->npages,
			DIV_ROUND_UP(offset + length, PAGE_SIZE));

	for (; i < end; i++)
		clear_page(page_address(mem->pages[i]));
}

static int vnic_mmap_pages(struct vnic_mem *mem, struct vm_area_struct *vma)
{
	unsigned long num = mem->npages;

	vm_flags_set(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	return vm_insert_pages(vma, vma->vm_start, mem->pages, &num);
}

static int vnic_mmap_kick(struct vnic_mem *mem, struct ib_ucontext *ibuc,
			  struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_WRITE))
		return -EPERM;
	vm_flags_set(vma, VM_DONTCOPY);
	return rdma_user_mmap_io(ibuc, vma, PHYS_PFN(mem->dev->kick_phys),
				 PAGE_SIZE, pgprot_noncached(vma->vm_page_prot),
				 &mem->entry);
}

int vnic_mmap(struct ib_ucontext *ibuc, struct vm_area_struct *vma)
{
	struct rdma_user_mmap_entry *entry;
	struct vnic_mem *mem;
	int err;

	/* A child that inherited the file has other memory than the context. */
	if (current->mm != to_vctx(ibuc)->pasid->mm)
		return -EPERM;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;
	vm_flags_clear(vma, VM_MAYEXEC);

	entry = rdma_user_mmap_entry_get(ibuc, vma);
	if (!entry)
		return -EINVAL;
	mem = container_of(entry, struct vnic_mem, entry);
	err = mem->kick ? vnic_mmap_kick(mem, ibuc, vma) :
			  vnic_mmap_pages(mem, vma);
	rdma_user_mmap_entry_put(entry);
	return err;
}
