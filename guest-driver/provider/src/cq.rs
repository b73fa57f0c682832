// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Completion queues: making them, asking for events, and forgetting a queue pair's completions.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::mem::MaybeUninit;

use vnic_abi::cqe::{CQ_RING_OFFSET, CQE_SIZE};
use vnic_abi::uverbs::CqResp;
use vnic_verbs::{Completion, CompletionQueue};

use crate::context::Context;
use crate::errno::{Errno, to_code, to_pointer};
use crate::ffi::{
    IBV_CQ_INIT_ATTR_MASK_FLAGS, IBV_CQ_INIT_ATTR_MASK_PD, IBV_CREATE_CQ_ATTR_SINGLE_THREADED,
    IBV_WC_STANDARD_FLAGS, ib_uverbs_ex_create_cq_resp, ibv_cmd_create_cq_ex, ibv_cmd_destroy_cq,
    ibv_comp_channel, ibv_context, ibv_cq, ibv_cq_ex, ibv_cq_init_attr_ex, ibv_create_cq_ex,
    verbs_cq,
};
use crate::lock::Lock;
use crate::mapping::{Access, Mapping};
use crate::qp::QpPath;
use crate::{pd, poll};

/// A completion queue; libibverbs' part comes first.
#[repr(C)]
pub(crate) struct Cq {
    verbs: UnsafeCell<verbs_cq>,
    path: CqPath,
}

/// What the data path needs of a completion queue.
pub(crate) struct CqPath {
    pub(crate) state: Lock<CqState>,
    pub(crate) context: *const Context,
    /// Under `state`, and unmapped after it.
    _memory: Mapping,
}

/// What the lock of a completion queue guards.
pub(crate) struct CqState {
    pub(crate) queue: CompletionQueue,
    /// The queue pair of the last completion: mostly that of the next one too.
    pub(crate) last: Option<(u32, *const QpPath)>,
    /// The completion that the extended interface shows.
    pub(crate) current: Completion,
}

impl Cq {
    /// # Safety
    /// `cq` was made by this library and is not destroyed while the result is used.
    pub(crate) unsafe fn of<'a>(cq: *mut ibv_cq) -> &'a Self {
        // SAFETY: the caller's; libibverbs' part is the first field.
        unsafe { &*cq.cast() }
    }

    pub(crate) fn path(&self) -> &CqPath {
        &self.path
    }

    /// The part that the program of the extended interface reads.
    pub(crate) fn extended(&self) -> *mut ibv_cq_ex {
        self.verbs.get().cast()
    }
}

impl CqPath {
    /// Makes sure that no completion of queue pair `qpn` is polled any more, and that no poll of
    /// another thread still looks at the queue pair.
    pub(crate) fn forget(&self, qpn: u32) {
        self.state.with(|state| {
            state.queue.discard(qpn);
            state.last = None;
        });
    }
}

/// The answer to "create completion queue", with the kernel module's part.
#[repr(C)]
#[derive(Default)]
struct CreateCqResp {
    core: ib_uverbs_ex_create_cq_resp,
    vnic: CqResp,
}

pub(crate) unsafe extern "C" fn create_cq(
    context: *mut ibv_context,
    cqe: c_int,
    channel: *mut ibv_comp_channel,
    comp_vector: c_int,
) -> *mut ibv_cq {
    let (Ok(cqe), Ok(comp_vector)) = (u32::try_from(cqe), u32::try_from(comp_vector)) else {
        return to_pointer(Err(Errno::INVAL));
    };
    let attr = ibv_cq_init_attr_ex { cqe, channel, comp_vector, ..Default::default() };
    // SAFETY: the caller's context and channel.
    to_pointer(unsafe { create(context, &attr) }.map(|cq| cq.cast()))
}

pub(crate) unsafe extern "C" fn create_cq_ex(
    context: *mut ibv_context,
    attr: *mut ibv_cq_init_attr_ex,
) -> *mut ibv_cq_ex {
    // SAFETY: the attributes are the caller's.
    let attr = unsafe { &*attr };
    // SAFETY: the caller's context, channel and domain.
    to_pointer(unsafe { create(context, attr) }.map(|cq| {
        let extended = cq.cast::<ibv_cq_ex>();
        // SAFETY: the first field of the new queue, which the program does not know yet.
        poll::set_operations(unsafe { &mut *extended });
        extended
    }))
}

/// # Safety
/// The context is open, and what the attributes point to belongs to it.
unsafe fn create(context: *mut ibv_context, attr: &ibv_cq_init_attr_ex) -> Result<*mut Cq, Errno> {
    let single_threaded = single_threaded(attr)?;
    // Zero, as libibverbs expects of its part. It keeps the address, so the own part follows later.
    let cq = Box::into_raw(Box::<MaybeUninit<Cq>>::new(MaybeUninit::zeroed())).cast::<Cq>();
    // SAFETY: only an address is taken.
    let verbs = unsafe { UnsafeCell::raw_get(&raw const (*cq).verbs) };
    // SAFETY: `verbs` is zeroed memory of its own.
    let outcome = unsafe { create_in_kernel(context, attr, verbs, single_threaded) };
    match outcome {
        Ok(path) => {
            // SAFETY: memory of the new queue that nobody has used.
            unsafe { (&raw mut (*cq).path).write(path) };
            Ok(cq)
        }
        Err(error) => {
            // SAFETY: made above; the kernel does not know it, or not any more.
            drop(unsafe { Box::from_raw(cq.cast::<MaybeUninit<Cq>>()) });
            Err(error)
        }
    }
}

/// Makes the queue in the kernel and maps its memory.
///
/// # Safety
/// As for [`create`]; `verbs` is zero and stays where it is.
unsafe fn create_in_kernel(
    context: *mut ibv_context,
    attr: &ibv_cq_init_attr_ex,
    verbs: *mut verbs_cq,
    single_threaded: bool,
) -> Result<CqPath, Errno> {
    let mut cmd = ibv_create_cq_ex::default();
    let mut resp = CreateCqResp::default();
    // SAFETY: the caller's context and attributes, and structures with their sizes; the core part of
    // the response is the first.
    Errno::check(unsafe {
        ibv_cmd_create_cq_ex(
            context,
            attr,
            verbs,
            &mut cmd,
            size_of_val(&cmd),
            (&raw mut resp).cast(),
            size_of_val(&resp),
            0,
        )
    })?;
    // SAFETY: the context is open.
    let path = unsafe { map(context, &resp.vnic, single_threaded) };
    if path.is_err() {
        // SAFETY: made above and given to nobody. If this fails too, the kernel frees the queue with
        // the context.
        unsafe { ibv_cmd_destroy_cq(verbs.cast()) };
    }
    path
}

/// # Safety
/// `context` is open.
unsafe fn map(
    context: *mut ibv_context,
    resp: &CqResp,
    single_threaded: bool,
) -> Result<CqPath, Errno> {
    // SAFETY: the caller's.
    let fd = unsafe { (*context).cmd_fd };
    let offset = resp.mmap_offset.get();
    let memory = Mapping::new(fd, offset, resp.mmap_length.get(), Access::ReadWrite)?;
    let depth = resp.depth.get();
    let length = u64::from(CQ_RING_OFFSET) + u64::from(depth) * u64::from(CQE_SIZE);
    // SAFETY: the range holds the control page and the ring, mapped for as long as the queue. The
    // kernel module made the pages for this queue alone, filled with zero.
    let queue = unsafe { CompletionQueue::new(memory.range(0, length)?, depth)? };
    let state = CqState { queue, last: None, current: Completion::default() };
    Ok(CqPath {
        state: Lock::new(state, single_threaded),
        // SAFETY: the caller's.
        context: unsafe { Context::of(context) },
        _memory: memory,
    })
}

/// Checks the extended attributes, and tells whether one thread alone will use the queue.
fn single_threaded(attr: &ibv_cq_init_attr_ex) -> Result<bool, Errno> {
    const MASK: u32 = IBV_CQ_INIT_ATTR_MASK_FLAGS | IBV_CQ_INIT_ATTR_MASK_PD;
    if attr.comp_mask & !MASK != 0 || attr.wc_flags & !u64::from(IBV_WC_STANDARD_FLAGS) != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let mut single = false;
    if attr.comp_mask & IBV_CQ_INIT_ATTR_MASK_FLAGS != 0 {
        if attr.flags & !IBV_CREATE_CQ_ATTR_SINGLE_THREADED != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        single |= attr.flags & IBV_CREATE_CQ_ATTR_SINGLE_THREADED != 0;
    }
    if attr.comp_mask & IBV_CQ_INIT_ATTR_MASK_PD != 0 {
        // SAFETY: a domain of this library, by the caller's contract.
        single |= unsafe { pd::is_single_threaded(attr.parent_domain) };
    }
    Ok(single)
}

pub(crate) unsafe extern "C" fn req_notify_cq(cq: *mut ibv_cq, solicited_only: c_int) -> c_int {
    // SAFETY: a queue of this library, by the caller's contract.
    let path = unsafe { Cq::of(cq) }.path();
    path.state.with(|state| state.queue.arm(solicited_only != 0));
    0
}

pub(crate) unsafe extern "C" fn destroy_cq(cq: *mut ibv_cq) -> c_int {
    // SAFETY: a queue of this library, by the caller's contract.
    let outcome = Errno::check(unsafe { ibv_cmd_destroy_cq(cq) });
    if outcome.is_ok() {
        // SAFETY: made by `create` with every field; gone in the kernel, so nobody uses it again.
        drop(unsafe { Box::from_raw(cq.cast::<Cq>()) });
    }
    to_code(outcome)
}
