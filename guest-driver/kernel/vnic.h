/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Objects of the driver and what its files offer each other.
 *
 * Lifetimes, outermost first: vnic_dev (virtio probe to remove) contains at
 * most one vnic_ib at a time (while the paired netdev exists), which contains
 * contexts, which contain everything else. Memory that the device may write
 * is owned by its object and freed only after the device confirmed that the
 * object is gone; if it did not, the memory waits in vnic_dev::graveyard for
 * the reset.
 */
#ifndef VNIC_H
#define VNIC_H

#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/kref.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/rhashtable-types.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <rdma/ib_verbs.h>

#include "compat.h"
#include "vnic_abi.h"

/* How long a control command may take before the device counts as dead. */
#define VNIC_CMD_TIMEOUT	(10 * HZ)
/* How long an invalidation waits for the workers before the same verdict. */
#define VNIC_QUIESCE_LIMIT_NS	(2 * NSEC_PER_SEC)
#define VNIC_LIVENESS_PERIOD	(2 * HZ)

/* struct vnic_caps - the configuration space, checked, in host order */
struct vnic_caps {
	u32 version;
	u64 offered;		/* VNIC_F_* of the device */
	u64 features;		/* the accepted ones */
	u32 max_qp;
	u32 max_cq;
	u32 max_mr;
	u32 max_pd;
	u32 max_ctx;
	u32 max_sq_depth;
	u32 max_rq_depth;
	u32 max_cq_depth;
	u32 max_send_sge;
	u32 max_recv_sge;
	u32 max_inline;
	u32 max_rd_atomic;
	u32 max_msg_size;
	u64 max_mr_size;	/* ~0: no bound */
	u32 max_gid;
	u32 num_workers;
	u8 active_mtu;
	u8 mac[ETH_ALEN];
};

/* struct vnic_stats - what the driver holds now, and what it did so far */
struct vnic_stats {
	atomic_t ctx;
	atomic_t pd;
	atomic_t mr;
	atomic_t cq;
	atomic_t qp;
	atomic_t pasid;
	atomic_t pages;		/* queue, doorbell and invalidation pages */
	atomic_t buried;	/* of these, waiting for the reset */
	atomic64_t faults_served;
	atomic64_t faults_failed;
	atomic64_t faults_gone;
	atomic64_t fault_pages;
	atomic64_t advised_pages;
	atomic64_t invalidations;
	atomic64_t invalidation_waits;
	atomic64_t events;
	atomic64_t stray_events;
};

struct vnic_ctrlq {
	struct virtqueue *vq;
	spinlock_t lock;		/* virtqueue, pending */
	struct list_head pending;	/* vnic_cmd::node, given to the device */
	unsigned long completed;	/* count, so that waiters see progress */
	wait_queue_head_t space;
};

struct vnic_eventq {
	struct virtqueue *vq;
	spinlock_t lock;		/* virtqueue */
	struct vnic_event *bufs;
};

struct vnic_faultq {
	struct virtqueue *vq;
	spinlock_t lock;		/* virtqueue */
	struct workqueue_struct *wq;
	struct vnic_fault *bufs;
};

enum vnic_flag {
	VNIC_DEAD,	/* the device broke its promises; never cleared */
	VNIC_DRAINING,	/* no page request is accepted any more */
	VNIC_CLOSED,	/* the queues are being taken away */
};

struct vnic_dev {
	struct virtio_device *vdev;
	struct vnic_caps caps;
	unsigned long flags;		/* enum vnic_flag */
	const char *dead_reason;
	struct work_struct dead_work;

	struct vnic_ctrlq ctrl;
	struct vnic_eventq event;
	struct vnic_faultq fault;
	struct virtqueue *kick_vq;
	phys_addr_t kick_phys;		/* of the kick queue's notify register */

	struct vnic_epoch_slot *epoch;	/* one page, written by the device */

	/* All three are used with interrupts off. */
	struct xarray pasids;		/* by PASID */
	struct xarray cqs;		/* by cookie; xa_lock held in handlers */
	struct xarray qps;		/* likewise */
	u32 cq_next;
	u32 qp_next;

	spinlock_t mr_lock;
	struct rhashtable mrs;		/* by key; mr_lock held in lookups */

	struct workqueue_struct *wq;
	struct workqueue_struct *advice_wq;
	struct delayed_work liveness;

	struct notifier_block netdev_nb;
	struct work_struct pair_work;
	struct work_struct port_work;
	struct mutex pair_lock;		/* ib, removing */
	struct vnic_ib *ib;
	bool removing;
	int wire;			/* enum vnic_wire, from the interrupt */

	spinlock_t graveyard_lock;
	struct list_head graveyard;	/* vnic_mem::node */
	struct list_head pin_graveyard;	/* vnic_pin::node */

	struct vnic_stats stats;
};

/* What carries the port to other hosts. */
enum vnic_wire {
	VNIC_WIRE_UP,
	VNIC_WIRE_PARTLY,	/* gone, but there are neighbours on this one */
	VNIC_WIRE_DOWN,
};

struct vnic_ib {
	struct ib_device ibdev;
	struct vnic_dev *dev;
	struct net_device *ndev;	/* a reference is held */
	netdevice_tracker tracker;
	enum ib_port_state port_state;	/* last one told, under pair_lock */
	int wire;			/* likewise */
	struct dentry *debugfs;
};

/*
 * struct vnic_mem - pages shared with the device, and perhaps with a process
 *
 * One reference belongs to the object that gave the pages to the device, one
 * to the mmap entry. A process that maps the pages holds them one by one.
 */
struct vnic_mem {
	struct rdma_user_mmap_entry entry;
	struct kref ref;
	struct vnic_dev *dev;
	struct list_head node;
	bool kick;		/* the kick page: no memory at all */
	u32 npages;
	struct page *pages[];
};

struct vnic_pasid {
	struct kref ref;
	struct vnic_dev *dev;
	struct mmu_notifier mn;
	struct mm_struct *mm;		/* mm_count is held */
	struct vnic_mem *mem;		/* the invalidation page */
	struct vnic_invalidation_page *page;
	raw_spinlock_t lock;		/* generation and ring */
	u64 generation;
	bool live;			/* the device may walk the tables */
	bool closed;			/* the context is going */
	atomic_t advices;		/* under way */
	atomic_t regions;		/* that the device may have windows on */
	struct mutex unbind_lock;	/* the rest */
	u32 id;				/* 0: not bound */
	struct vnic_cmd *unbind;	/* allocated early: must not fail */
	bool lost;			/* the device did not confirm */
};

struct vnic_ctx {
	struct ib_ucontext ibuc;
	u32 handle;
	struct vnic_pasid *pasid;
	struct vnic_mem *doorbell;
	struct vnic_mem *kick;
};

struct vnic_pd {
	struct ib_pd ibpd;
	u32 handle;
};

/* struct vnic_mr - a region, as the device knows it */
struct vnic_mr {
	struct ib_mr ibmr;
	u32 handle;
	u32 key;
	struct rhash_head node;
	struct vnic_pasid *pasid;	/* lives as long as the context */
	struct vnic_pin *pin;		/* if the device asked for it */
	u32 pd;				/* handle; this and the rest under mr_lock */
	u32 access;			/* VNIC_ACCESS_* */
	u64 start;
	u64 length;
	u64 iova;
};

struct vnic_cq {
	struct ib_cq ibcq;
	u32 handle;
	u32 cookie;
	struct vnic_mem *mem;
};

struct vnic_qp {
	struct ib_qp ibqp;
	u32 handle;
	u32 cookie;
	u32 ctx;			/* handle of the owner */
	struct mutex lock;		/* state */
	enum ib_qp_state state;		/* as far as modify_qp told */
	struct ib_qp_cap cap;
	enum ib_sig_type sig_type;
	u32 sq_depth;
	u32 sq_stride;
	u32 rq_offset;
	u32 rq_depth;
	u32 rq_stride;
	struct vnic_mem *mem;
};

#define VNIC_TO(name, type, ib, member)					\
static inline struct type *name(struct ib *p)				\
{									\
	return container_of(p, struct type, member);			\
}
VNIC_TO(to_vctx, vnic_ctx, ib_ucontext, ibuc)
VNIC_TO(to_vpd, vnic_pd, ib_pd, ibpd)
VNIC_TO(to_vmr, vnic_mr, ib_mr, ibmr)
VNIC_TO(to_vcq, vnic_cq, ib_cq, ibcq)
VNIC_TO(to_vqp, vnic_qp, ib_qp, ibqp)

static inline struct vnic_dev *to_vdev(const struct ib_device *ibdev)
{
	return container_of_const(ibdev, struct vnic_ib, ibdev)->dev;
}

static inline bool vnic_dead(const struct vnic_dev *dev)
{
	return test_bit(VNIC_DEAD, &dev->flags);
}

/* main.c */
void vnic_kill(struct vnic_dev *dev, const char *reason);

/* kick.c */
bool vnic_has_config(struct virtio_device *vdev);
int vnic_kick_locate(struct vnic_dev *dev);

/* netdev.c */
void vnic_pair_init(struct vnic_dev *dev);
int vnic_pair_start(struct vnic_dev *dev);
void vnic_pair_stop(struct vnic_dev *dev);
void vnic_port_changed(struct vnic_dev *dev);
enum ib_port_state vnic_port_state(struct vnic_ib *ib);
void vnic_wire_changed(struct vnic_dev *dev, int wire);

/* ibdev.c */
struct vnic_ib *vnic_ib_register(struct vnic_dev *dev, struct net_device *ndev);
void vnic_ib_unregister(struct vnic_ib *ib);

/*
 * ctrlq.c
 *
 * All of these sleep. -EIO: the device is dead and was not even told.
 * -ETIMEDOUT: it was told, did not answer, and may still do it. Every other
 * error means that it refused.
 */
struct vnic_cmd;

/* Whether the device may use what a failed command was to give it. */
static inline bool vnic_may_have(int err)
{
	return err == -ETIMEDOUT;
}

/* Whether the device may still use what a command was to take from it. */
static inline bool vnic_may_keep(int err)
{
	return err == -ETIMEDOUT || err == -EIO;
}

void vnic_ctrlq_init(struct vnic_dev *dev);
void vnic_ctrlq_done(struct virtqueue *vq);
void vnic_ctrlq_abort(struct vnic_dev *dev);
void vnic_ctrlq_drain(struct vnic_dev *dev);
struct vnic_cmd *vnic_cmd_alloc(size_t body_len, size_t reply_len, gfp_t gfp);
void vnic_cmd_free(struct vnic_cmd *cmd);
int vnic_cmd_run(struct vnic_dev *dev, struct vnic_cmd *cmd, u32 opcode,
		 const void *body, void *reply);
void vnic_cmd_post(struct vnic_dev *dev, u32 opcode);
int vnic_cmd(struct vnic_dev *dev, u32 opcode, const void *body,
	     size_t body_len, void *reply, size_t reply_len);
int vnic_cmd_list(struct vnic_dev *dev, u32 opcode, const void *body,
		  size_t body_len, void *reply, size_t reply_len,
		  __le64 *list);
int vnic_cmd_handle(struct vnic_dev *dev, u32 opcode, u32 handle);

/* event.c */
int vnic_eventq_init(struct vnic_dev *dev);
void vnic_eventq_exit(struct vnic_dev *dev);
void vnic_eventq_fill(struct vnic_dev *dev);
void vnic_eventq_done(struct virtqueue *vq);
void vnic_eventq_drain(struct vnic_dev *dev);
void vnic_qps_fatal(struct vnic_dev *dev, u32 ctx);

/* pasid.c */
struct vnic_pasid *vnic_pasid_bind(struct vnic_dev *dev);
void vnic_pasid_unbind(struct vnic_pasid *pasid);
struct vnic_pasid *vnic_pasid_get(struct vnic_dev *dev, u32 id);
void vnic_pasid_put(struct vnic_pasid *pasid);

/* fault.c */
u64 vnic_fault_range(struct vnic_dev *dev, struct mm_struct *mm,
		     unsigned long addr, u64 pages, bool write);
int vnic_faultq_init(struct vnic_dev *dev);
void vnic_faultq_exit(struct vnic_dev *dev);
void vnic_faultq_fill(struct vnic_dev *dev);
void vnic_faultq_done(struct virtqueue *vq);
void vnic_faultq_stop(struct vnic_dev *dev);
void vnic_faultq_drain(struct vnic_dev *dev);

/* advice.c */
int vnic_advice_init(struct vnic_dev *dev);
void vnic_advice_exit(struct vnic_dev *dev);
int vnic_advise_mr(struct ib_pd *ibpd, enum ib_uverbs_advise_mr_advice advice,
		   u32 flags, struct ib_sge *sg_list, u32 num_sge,
		   struct uverbs_attr_bundle *attrs);

/* liveness.c */
void vnic_liveness_init(struct vnic_dev *dev);
void vnic_liveness_watch(struct vnic_dev *dev);
void vnic_liveness_stop(struct vnic_dev *dev);

/* mmap.c */
struct vnic_mem *vnic_mem_alloc(struct vnic_dev *dev, u32 npages);
struct vnic_mem *vnic_mem_kick(struct vnic_dev *dev);
int vnic_mem_publish(struct vnic_mem *mem, struct ib_ucontext *ibuc);
void vnic_mem_withdraw(struct vnic_mem *mem);
void vnic_mem_release(struct vnic_mem *mem, bool held);
void vnic_mem_put(struct vnic_mem *mem);
__le64 *vnic_mem_list(const struct vnic_mem *mem, struct vnic_page_list *wire);
void vnic_mem_clear(struct vnic_mem *mem, size_t offset, size_t length);
u64 vnic_mem_offset(struct vnic_mem *mem);
void vnic_graveyard_free(struct vnic_dev *dev);
int vnic_mmap(struct ib_ucontext *ibuc, struct vm_area_struct *vma);
void vnic_mmap_free(struct rdma_user_mmap_entry *entry);

/* context.c */
int vnic_alloc_ucontext(struct ib_ucontext *ibuc, struct ib_udata *udata);
void vnic_dealloc_ucontext(struct ib_ucontext *ibuc);
void vnic_disassociate_ucontext(struct ib_ucontext *ibuc);
struct vnic_ctx *vnic_udata_ctx(struct ib_udata *udata);

/* gid.c */
int vnic_add_gid(const struct ib_gid_attr *attr, void **context);
int vnic_del_gid(const struct ib_gid_attr *attr, void **context);

/* pd.c */
int vnic_alloc_pd(struct ib_pd *ibpd, struct ib_udata *udata);
int vnic_dealloc_pd(struct ib_pd *ibpd, struct ib_udata *udata);

/* pin.c */
struct vnic_pin *vnic_pin_range(u64 start, u64 length, bool writable);
void vnic_pin_release(struct vnic_dev *dev, struct vnic_pin *pin, bool held);
void vnic_pin_graveyard_free(struct vnic_dev *dev);

/* mr.c */
int vnic_mrs_init(struct vnic_dev *dev);
void vnic_mrs_exit(struct vnic_dev *dev);
struct vnic_mr *vnic_mr_find(struct vnic_dev *dev, u32 key);
u32 vnic_access_flags(struct vnic_dev *dev, int access, int *err);
int vnic_access_to_ib(u32 access);
struct ib_mr *vnic_get_dma_mr(struct ib_pd *ibpd, int access);
VNIC_REG_USER_MR(vnic_reg_user_mr);
struct ib_mr *vnic_rereg_user_mr(struct ib_mr *ibmr, int flags, u64 start,
				 u64 length, u64 iova, int access,
				 struct ib_pd *ibpd, struct ib_udata *udata);
int vnic_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata);

/* cq.c */
int vnic_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
		   struct uverbs_attr_bundle *attrs);
int vnic_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata);

/* qp.c */
int vnic_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *attr,
		   struct ib_udata *udata);
int vnic_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata);

/* qp_attr.c */
int vnic_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		   struct ib_udata *udata);
int vnic_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		  struct ib_qp_init_attr *init);

/* query.c */
int vnic_query_device(struct ib_device *ibdev, struct ib_device_attr *attr,
		      struct ib_udata *udata);
int vnic_query_port(struct ib_device *ibdev, u32 port,
		    struct ib_port_attr *attr);
int vnic_query_pkey(struct ib_device *ibdev, u32 port, u16 index, u16 *pkey);
int vnic_get_port_immutable(struct ib_device *ibdev, u32 port,
			    struct ib_port_immutable *immutable);
enum rdma_link_layer vnic_get_link_layer(struct ib_device *ibdev, u32 port);

/* stats.c */
void vnic_stats_init(void);
void vnic_stats_exit(void);
void vnic_stats_add(struct vnic_ib *ib);
void vnic_stats_remove(struct vnic_ib *ib);

#endif
