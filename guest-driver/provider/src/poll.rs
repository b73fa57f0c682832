// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Polling, by `ibv_poll_cq` and by the extended interface (`ibv_start_poll` and so on).

use core::ffi::c_int;

use vnic_abi::cqe::CqeFlags;
use vnic_verbs::Completion;

use crate::context::Context;
use crate::cq::{Cq, CqState};
use crate::ffi::{
    IBV_WC_GRH, IBV_WC_WITH_IMM, ibv_cq, ibv_cq_ex, ibv_poll_cq_attr, ibv_wc, ibv_wc_opcode,
};

impl CqState {
    /// Takes the next completion, and frees the elements of its queue pair that are done with.
    ///
    /// The lock of this queue must be held: it keeps the queue pair alive.
    fn next(&mut self, context: &Context) -> Option<Completion> {
        let done = self.queue.take()?;
        let path = match self.last {
            Some((qpn, path)) if qpn == done.qpn => path,
            _ => {
                let path = context.path().qps.get(done.qpn).cast_const();
                self.last = Some((done.qpn, path));
                path
            }
        };
        // SAFETY: a queue pair leaves the table before `CqPath::forget` takes the lock of this queue
        // and drops `last`, and is freed after that.
        if let Some(path) = unsafe { path.as_ref() } {
            path.finished(&done);
        }
        Some(done)
    }
}

/// What of a completion `ibv_wc_flags` tells.
fn wc_flags(done: &Completion) -> u32 {
    let mut flags = 0;
    if done.flags.contains(CqeFlags::WITH_IMM) {
        flags |= IBV_WC_WITH_IMM;
    }
    if done.flags.contains(CqeFlags::GRH) {
        flags |= IBV_WC_GRH;
    }
    flags
}

/// Fills what the program reads of a completion.
fn fill(wc: &mut ibv_wc, done: &Completion) {
    // The codes of the device are numbered as the verbs'.
    *wc = ibv_wc {
        wr_id: done.wr_id,
        status: done.status.0.into(),
        opcode: done.opcode.0.into(),
        byte_len: done.byte_len,
        qp_num: done.qpn,
        src_qp: done.src_qp,
        wc_flags: wc_flags(done),
        ..Default::default()
    };
    wc.__bindgen_anon_1.imm_data = u32::from_ne_bytes(done.imm);
}

pub(crate) unsafe extern "C" fn poll_cq(
    cq: *mut ibv_cq,
    num_entries: c_int,
    wc: *mut ibv_wc,
) -> c_int {
    // SAFETY: a queue of this library, by the caller's contract.
    let path = unsafe { Cq::of(cq) }.path();
    // SAFETY: a queue lives shorter than its context.
    let context = unsafe { &*path.context };
    path.state.with(|state| {
        let mut taken = 0;
        while taken < num_entries {
            let Some(done) = state.next(context) else { break };
            // SAFETY: the program gave room for `num_entries`. What was there is overwritten whole.
            fill(unsafe { &mut *wc.add(taken as usize) }, &done);
            taken += 1;
        }
        state.queue.publish();
        taken
    })
}

/// Names the operations of the extended interface in a new queue.
pub(crate) fn set_operations(cq: &mut ibv_cq_ex) {
    cq.start_poll = Some(start_poll);
    cq.next_poll = Some(next_poll);
    cq.end_poll = Some(end_poll);
    cq.read_opcode = Some(read_opcode);
    cq.read_vendor_err = Some(read_zero);
    cq.read_byte_len = Some(read_byte_len);
    cq.read_imm_data = Some(read_imm_data);
    cq.read_qp_num = Some(read_qp_num);
    cq.read_src_qp = Some(read_src_qp);
    cq.read_wc_flags = Some(read_wc_flags);
    cq.read_slid = Some(read_zero);
    cq.read_sl = Some(read_zero_u8);
    cq.read_dlid_path_bits = Some(read_zero_u8);
}

/// Begins to poll: on success the lock is held until [`end_poll`].
unsafe extern "C" fn start_poll(cq: *mut ibv_cq_ex, attr: *mut ibv_poll_cq_attr) -> c_int {
    // SAFETY: the attributes are the caller's.
    if unsafe { (*attr).comp_mask } != 0 {
        return libc::EINVAL;
    }
    // SAFETY: a queue of this library, by the caller's contract.
    let state = &unsafe { Cq::of(cq.cast()) }.path().state;
    state.acquire();
    // SAFETY: the lock is held.
    let code = unsafe { show_next(cq) };
    if code != 0 {
        // SAFETY: taken above. Entries that were crossed out may have been passed over.
        unsafe {
            state.get().queue.publish();
            state.release();
        }
    }
    code
}

unsafe extern "C" fn next_poll(cq: *mut ibv_cq_ex) -> c_int {
    // SAFETY: the program calls this after `start_poll`, which left the lock held.
    unsafe { show_next(cq) }
}

unsafe extern "C" fn end_poll(cq: *mut ibv_cq_ex) {
    // SAFETY: a queue of this library, by the caller's contract.
    let state = &unsafe { Cq::of(cq.cast()) }.path().state;
    // SAFETY: the program calls this after `start_poll`, which left the lock held.
    unsafe {
        state.get().queue.publish();
        state.release();
    }
}

/// Makes the next completion the current one.
///
/// # Safety
/// The lock of the queue is held.
unsafe fn show_next(cq: *mut ibv_cq_ex) -> c_int {
    // SAFETY: a queue of this library, by the caller's contract.
    let queue = unsafe { Cq::of(cq.cast()) };
    // SAFETY: a queue lives shorter than its context.
    let context = unsafe { &*queue.path().context };
    // SAFETY: the lock is held.
    let state = unsafe { queue.path().state.get() };
    let Some(done) = state.next(context) else { return libc::ENOENT };
    state.current = done;
    let extended = queue.extended();
    // SAFETY: fields of the queue that only the holder of the lock and the program's thread that
    // polls use.
    unsafe {
        (*extended).wr_id = done.wr_id;
        (*extended).status = done.status.0.into();
    }
    0
}

/// The current completion.
///
/// # Safety
/// The program is between `start_poll` and `end_poll`: the lock is held.
unsafe fn current<'a>(cq: *mut ibv_cq_ex) -> &'a Completion {
    // SAFETY: the caller's.
    unsafe { &Cq::of(cq.cast()).path().state.get().current }
}

unsafe extern "C" fn read_opcode(cq: *mut ibv_cq_ex) -> ibv_wc_opcode {
    // SAFETY: the program calls this between `start_poll` and `end_poll`.
    unsafe { current(cq) }.opcode.0.into()
}

unsafe extern "C" fn read_byte_len(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: as for `read_opcode`.
    unsafe { current(cq) }.byte_len
}

unsafe extern "C" fn read_imm_data(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: as for `read_opcode`.
    u32::from_ne_bytes(unsafe { current(cq) }.imm)
}

unsafe extern "C" fn read_qp_num(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: as for `read_opcode`.
    unsafe { current(cq) }.qpn
}

unsafe extern "C" fn read_src_qp(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: as for `read_opcode`.
    unsafe { current(cq) }.src_qp
}

unsafe extern "C" fn read_wc_flags(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: as for `read_opcode`.
    wc_flags(unsafe { current(cq) })
}

/// What a RoCE port does not have: local identifiers. Neither has the device errors of its own.
unsafe extern "C" fn read_zero(_cq: *mut ibv_cq_ex) -> u32 {
    0
}

unsafe extern "C" fn read_zero_u8(_cq: *mut ibv_cq_ex) -> u8 {
    0
}
