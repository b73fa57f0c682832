// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queue pairs: making, changing and destroying them.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use vnic_abi::PAGE_SIZE;
use vnic_abi::doorbell::QP_SQ_OFFSET;
use vnic_abi::uverbs::QpResp;
use vnic_verbs::{Completion, DoorbellIndex, RecvQueue, SendLimits, SendQueue};

use crate::context::Context;
use crate::cq::{Cq, CqPath};
use crate::errno::{Errno, to_code, to_pointer};
use crate::ffi::{
    IBV_QP_INIT_ATTR_PD, IBV_QP_INIT_ATTR_SEND_OPS_FLAGS, IBV_QP_STATE, IBV_QPS_RESET, VERBS_QP_EX,
    ib_uverbs_ex_create_qp_resp, ibv_cmd_create_qp_ex2, ibv_cmd_destroy_qp, ibv_cmd_modify_qp,
    ibv_cmd_query_qp, ibv_context, ibv_create_qp_ex, ibv_modify_qp, ibv_pd, ibv_qp, ibv_qp_attr,
    ibv_qp_init_attr, ibv_qp_init_attr_ex, ibv_qp_state, ibv_query_qp, verbs_qp,
};
use crate::lock::Lock;
use crate::mapping::{Access, Mapping};
use crate::{pd, wr};

/// A queue pair; libibverbs' part comes first.
#[repr(C)]
pub(crate) struct Qp {
    verbs: UnsafeCell<verbs_qp>,
    path: QpPath,
}

/// What the data path needs of a queue pair.
pub(crate) struct QpPath {
    pub(crate) send: Lock<SendState>,
    /// `None` if the queue pair takes from a shared receive queue.
    pub(crate) recv: Lock<Option<RecvQueue>>,
    /// Elements that the device is done with, from completions. Set under the lock of the completion
    /// queue, read under that of the send or receive queue.
    pub(crate) sent: AtomicU32,
    pub(crate) received: AtomicU32,
    pub(crate) bell: DoorbellIndex,
    pub(crate) context: *const Context,
    send_cq: *const CqPath,
    recv_cq: *const CqPath,
    qpn: u32,
    /// Under the queues, and unmapped after them.
    _memory: Mapping,
}

/// What the lock of a send queue guards.
pub(crate) struct SendState {
    pub(crate) queue: SendQueue,
    /// First error of the batch that the extended interface is building.
    pub(crate) error: Option<Errno>,
}

impl Qp {
    /// # Safety
    /// `qp` was made by this library and is not destroyed while the result is used.
    pub(crate) unsafe fn of<'a>(qp: *mut ibv_qp) -> &'a Self {
        // SAFETY: the caller's; libibverbs' part is the first field.
        unsafe { &*qp.cast() }
    }

    pub(crate) fn path(&self) -> &QpPath {
        &self.path
    }

    /// The state that the program last moved the queue pair to.
    pub(crate) fn state(&self) -> ibv_qp_state {
        let qp: *mut ibv_qp = self.verbs.get().cast();
        // SAFETY: libibverbs writes the field when a change is done; volatile, as a program may post
        // in another thread meanwhile, and either state is right then.
        unsafe { (&raw const (*qp).state).read_volatile() }
    }
}

impl QpPath {
    /// Notes what a completion tells about finished elements. Called under the lock of the
    /// completion queue.
    pub(crate) fn finished(&self, done: &Completion) {
        let count = if done.is_recv() { &self.received } else { &self.sent };
        // Release: pairs with the acquiring loads before posting, so that the device's reads of an
        // element, which the completion follows, precede its being overwritten.
        count.store(done.wqe_count, Ordering::Release);
    }

    /// Rings this queue pair's doorbell.
    pub(crate) fn ring(&self) {
        // SAFETY: a queue pair lives shorter than its context.
        unsafe { &*self.context }.path().doorbell.ring(self.bell);
    }

    /// Removes this queue pair's completions from its completion queues.
    fn forget_completions(&self) {
        // SAFETY: completion queues outlive the queue pairs that use them; the kernel sees to that.
        unsafe {
            (*self.send_cq).forget(self.qpn);
            if !ptr::eq(self.send_cq, self.recv_cq) {
                (*self.recv_cq).forget(self.qpn);
            }
        }
    }

    /// Makes the queues as new, after the kernel reset the queue pair.
    fn reset(&self) {
        self.forget_completions();
        // Relaxed: nobody posts or polls for a queue pair that is being reset; what they see later
        // comes through the locks.
        self.sent.store(0, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
        self.send.with(|send| send.queue.reset());
        self.recv.with(|recv| {
            if let Some(queue) = recv {
                queue.reset();
            }
        });
    }
}

/// The answer to "create queue pair", with the kernel module's part.
#[repr(C)]
#[derive(Default)]
struct CreateQpResp {
    core: ib_uverbs_ex_create_qp_resp,
    vnic: QpResp,
}

pub(crate) unsafe extern "C" fn create_qp(
    pd: *mut ibv_pd,
    attr: *mut ibv_qp_init_attr,
) -> *mut ibv_qp {
    // SAFETY: the attributes are the caller's, and are given back with what was granted.
    let attr = unsafe { &mut *attr };
    let mut extended = ibv_qp_init_attr_ex {
        qp_context: attr.qp_context,
        send_cq: attr.send_cq,
        recv_cq: attr.recv_cq,
        srq: attr.srq,
        cap: attr.cap,
        qp_type: attr.qp_type,
        sq_sig_all: attr.sq_sig_all,
        comp_mask: IBV_QP_INIT_ATTR_PD,
        pd,
        ..Default::default()
    };
    // SAFETY: the caller's domain.
    let context = unsafe { (*pd).context };
    // SAFETY: the caller's context and objects.
    let outcome = unsafe { create(context, &mut extended) };
    attr.cap = extended.cap;
    to_pointer(outcome.map(|qp| qp.cast()))
}

pub(crate) unsafe extern "C" fn create_qp_ex(
    context: *mut ibv_context,
    attr: *mut ibv_qp_init_attr_ex,
) -> *mut ibv_qp {
    // SAFETY: the caller's context, attributes and objects.
    to_pointer(unsafe { create(context, &mut *attr) }.map(|qp| qp.cast()))
}

/// # Safety
/// The context is open, and what the attributes point to belongs to it.
unsafe fn create(
    context: *mut ibv_context,
    attr: &mut ibv_qp_init_attr_ex,
) -> Result<*mut Qp, Errno> {
    const MASK: u32 = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
    if attr.comp_mask & !MASK != 0 || !attr.srq.is_null() {
        return Err(Errno::OPNOTSUPP);
    }
    if attr.comp_mask & IBV_QP_INIT_ATTR_PD == 0
        || attr.pd.is_null()
        || attr.send_cq.is_null()
        || attr.recv_cq.is_null()
    {
        return Err(Errno::INVAL);
    }
    let extended = attr.comp_mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS != 0;
    if extended {
        wr::check_operations(attr.send_ops_flags)?;
    }
    // Zero, as libibverbs expects of its part. It keeps the address, so the own part follows later.
    let qp = Box::into_raw(Box::<MaybeUninit<Qp>>::new(MaybeUninit::zeroed())).cast::<Qp>();
    // SAFETY: only an address is taken.
    let verbs = unsafe { UnsafeCell::raw_get(&raw const (*qp).verbs) };
    // SAFETY: the caller's; `verbs` is zeroed memory of its own.
    match unsafe { create_in_kernel(context, attr, verbs) } {
        Ok(path) => {
            // SAFETY: memory of the new queue pair that nobody has used.
            let path = unsafe {
                (&raw mut (*qp).path).write(path);
                &raw mut (*qp).path
            };
            if extended {
                // SAFETY: the first field of the new queue pair, which the program does not know yet.
                unsafe {
                    (*verbs).comp_mask |= VERBS_QP_EX;
                    wr::set_operations(&mut *verbs.cast());
                }
            }
            // SAFETY: written above.
            unsafe { enter(&*path, path) };
            Ok(qp)
        }
        Err(error) => {
            // SAFETY: made above; the kernel does not know it, or not any more.
            drop(unsafe { Box::from_raw(qp.cast::<MaybeUninit<Qp>>()) });
            Err(error)
        }
    }
}

/// Enters a new queue pair into its context's table.
///
/// The number may be that of a queue pair which the kernel has just destroyed, and whose thread has
/// not cleaned up here yet: then this is done now, before the new one can have completions.
fn enter(path: &QpPath, pointer: *mut QpPath) {
    // SAFETY: a queue pair lives shorter than its context.
    let context = unsafe { &*path.context };
    context.path().qps.set(path.qpn, |old| {
        // SAFETY: whoever destroys a queue pair takes it out of the table before freeing it.
        if let Some(old) = unsafe { old.as_ref() } {
            old.forget_completions();
        }
        pointer
    });
}

/// Takes a queue pair that the kernel has destroyed out of its context's table.
fn leave(path: &QpPath) {
    // SAFETY: a queue pair lives shorter than its context.
    let context = unsafe { &*path.context };
    let mut replaced = false;
    context.path().qps.set(path.qpn, |current| {
        replaced = !ptr::eq(current, path);
        if replaced { current } else { ptr::null_mut() }
    });
    if !replaced {
        path.forget_completions();
    }
}

/// Makes the queue pair in the kernel and maps its memory.
///
/// # Safety
/// As for [`create`]; `verbs` is zero and stays where it is.
unsafe fn create_in_kernel(
    context: *mut ibv_context,
    attr: &mut ibv_qp_init_attr_ex,
    verbs: *mut verbs_qp,
) -> Result<QpPath, Errno> {
    let mut cmd = ibv_create_qp_ex::default();
    let mut resp = CreateQpResp::default();
    // SAFETY: the caller's context and attributes, and structures with their sizes; the core part of
    // the response is the first.
    Errno::check(unsafe {
        ibv_cmd_create_qp_ex2(
            context,
            verbs,
            attr,
            &mut cmd,
            size_of_val(&cmd),
            (&raw mut resp).cast(),
            size_of_val(&resp),
        )
    })?;
    // SAFETY: the context is open, the attributes are valid, and the call above set the number.
    let path = unsafe {
        let qpn = (*verbs.cast::<ibv_qp>()).qp_num;
        map(context, attr, &resp.vnic, qpn)
    };
    if path.is_err() {
        // SAFETY: made above and given to nobody. If this fails too, the kernel frees the queue pair
        // with the context.
        unsafe { ibv_cmd_destroy_qp(verbs.cast()) };
    }
    path
}

/// # Safety
/// `context` is open, and the objects of `attr` belong to it.
unsafe fn map(
    context: *mut ibv_context,
    attr: &ibv_qp_init_attr_ex,
    resp: &QpResp,
    qpn: u32,
) -> Result<QpPath, Errno> {
    // SAFETY: the caller's.
    let fd = unsafe { (*context).cmd_fd };
    let offset = resp.mmap_offset.get();
    let memory = Mapping::new(fd, offset, resp.mmap_length.get(), Access::ReadWrite)?;
    let ring = |offset: u32, depth: u32, stride: u32| {
        memory.range(offset.into(), u64::from(depth) * u64::from(stride))
    };
    let control = memory.range(0, PAGE_SIZE)?;

    let (depth, stride) = (resp.sq_depth.get(), resp.sq_stride.get());
    let limits = SendLimits { max_sge: resp.max_send_sge.get(), max_inline: resp.max_inline.get() };
    // SAFETY: the ring lies in the mapping, which lives as long as the queue. The kernel module made
    // the pages for this queue pair alone, filled with zero.
    let sq = unsafe { SendQueue::new(ring(QP_SQ_OFFSET, depth, stride)?, depth, stride, limits)? };

    let (depth, stride) = (resp.rq_depth.get(), resp.rq_stride.get());
    let rq = if depth == 0 {
        None
    } else {
        let base = ring(resp.rq_offset.get(), depth, stride)?;
        // SAFETY: as above; the control page is in the mapping too.
        Some(unsafe { RecvQueue::new(control, base, depth, stride, resp.max_recv_sge.get())? })
    };

    // SAFETY: the caller's domain, completion queues and context.
    unsafe {
        let single_threaded = pd::is_single_threaded(attr.pd);
        Ok(QpPath {
            send: Lock::new(SendState { queue: sq, error: None }, single_threaded),
            recv: Lock::new(rq, single_threaded),
            sent: AtomicU32::new(0),
            received: AtomicU32::new(0),
            bell: DoorbellIndex::new(resp.doorbell_index.get()).ok_or(Errno::PROTO)?,
            context: Context::of(context),
            send_cq: Cq::of(attr.send_cq).path(),
            recv_cq: Cq::of(attr.recv_cq).path(),
            qpn,
            _memory: memory,
        })
    }
}

pub(crate) unsafe extern "C" fn query_qp(
    qp: *mut ibv_qp,
    attr: *mut ibv_qp_attr,
    attr_mask: c_int,
    init_attr: *mut ibv_qp_init_attr,
) -> c_int {
    let mut cmd = ibv_query_qp::default();
    // SAFETY: the caller's pointers as they are, and a command with its size.
    unsafe { ibv_cmd_query_qp(qp, attr, attr_mask, init_attr, &mut cmd, size_of_val(&cmd)) }
}

pub(crate) unsafe extern "C" fn modify_qp(
    qp: *mut ibv_qp,
    attr: *mut ibv_qp_attr,
    attr_mask: c_int,
) -> c_int {
    let mut cmd = ibv_modify_qp::default();
    // SAFETY: the caller's pointers as they are, and a command with its size.
    let outcome = Errno::check(unsafe {
        ibv_cmd_modify_qp(qp, attr, attr_mask, &mut cmd, size_of_val(&cmd))
    });
    // SAFETY: the attributes are the caller's.
    let resets =
        attr_mask as u32 & IBV_QP_STATE != 0 && unsafe { (*attr).qp_state } == IBV_QPS_RESET;
    if outcome.is_ok() && resets {
        // SAFETY: a queue pair of this library, by the caller's contract.
        unsafe { Qp::of(qp) }.path().reset();
    }
    to_code(outcome)
}

pub(crate) unsafe extern "C" fn destroy_qp(qp: *mut ibv_qp) -> c_int {
    // SAFETY: a queue pair of this library, by the caller's contract.
    let outcome = Errno::check(unsafe { ibv_cmd_destroy_qp(qp) });
    if outcome.is_ok() {
        // SAFETY: as above.
        leave(unsafe { Qp::of(qp) }.path());
        // SAFETY: made by `create` with every field. It is gone in the kernel and in the table, and
        // no poll looks at it any more.
        drop(unsafe { Box::from_raw(qp.cast::<Qp>()) });
    }
    to_code(outcome)
}
