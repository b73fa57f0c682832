// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Posting by the extended interface (`ibv_wr_start`, `ibv_wr_send`, ... `ibv_wr_complete`).
//!
//! The calls between start and complete build elements one by one. None is visible to the device
//! before complete, which publishes all or, after an error in any of them, none. The lock of the send
//! queue is held from start to complete or abort.

use core::ffi::{c_int, c_void};
use core::slice;
use core::sync::atomic::Ordering;

use vnic_abi::wqe::Opcode;
use vnic_verbs::{PostError, SendWriter};

use crate::errno::{Errno, to_code};
use crate::ffi::{
    IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP, IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD,
    IBV_QP_EX_WITH_RDMA_READ, IBV_QP_EX_WITH_RDMA_WRITE, IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM,
    IBV_QP_EX_WITH_SEND, IBV_QP_EX_WITH_SEND_WITH_IMM, IBV_QPS_INIT, IBV_QPS_RESET, IBV_QPS_RTR,
    ibv_data_buf, ibv_qp_ex, ibv_sge,
};
use crate::post::{bytes, send_flags};
use crate::qp::{Qp, SendState};

/// Refuses operations that the device does not have.
pub(crate) fn check_operations(operations: u64) -> Result<(), Errno> {
    const KNOWN: u32 = IBV_QP_EX_WITH_RDMA_WRITE
        | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM
        | IBV_QP_EX_WITH_SEND
        | IBV_QP_EX_WITH_SEND_WITH_IMM
        | IBV_QP_EX_WITH_RDMA_READ
        | IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP
        | IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD;
    if operations & !u64::from(KNOWN) == 0 { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

/// Names the operations in a new queue pair. All of them are there, whichever the program asked for.
pub(crate) fn set_operations(qp: &mut ibv_qp_ex) {
    qp.wr_atomic_cmp_swp = Some(wr_atomic_cmp_swp);
    qp.wr_atomic_fetch_add = Some(wr_atomic_fetch_add);
    qp.wr_rdma_read = Some(wr_rdma_read);
    qp.wr_rdma_write = Some(wr_rdma_write);
    qp.wr_rdma_write_imm = Some(wr_rdma_write_imm);
    qp.wr_send = Some(wr_send);
    qp.wr_send_imm = Some(wr_send_imm);
    qp.wr_set_inline_data = Some(wr_set_inline_data);
    qp.wr_set_inline_data_list = Some(wr_set_inline_data_list);
    qp.wr_set_sge = Some(wr_set_sge);
    qp.wr_set_sge_list = Some(wr_set_sge_list);
    qp.wr_start = Some(wr_start);
    qp.wr_complete = Some(wr_complete);
    qp.wr_abort = Some(wr_abort);
}

/// The send queue, in a call between start and complete.
///
/// # Safety
/// `qp` was made by this library, and the program called `wr_start` before: the lock is held.
unsafe fn state<'a>(qp: *mut ibv_qp_ex) -> &'a mut SendState {
    // SAFETY: the caller's.
    unsafe { Qp::of(qp.cast()).path().send.get() }
}

impl SendState {
    /// Completes the element that was being built, if there is one, and begins the next. `set` adds
    /// what belongs to the operation.
    fn build(
        &mut self,
        opcode: Opcode,
        wr_id: u64,
        flags: u32,
        set: impl FnOnce(&mut SendWriter<'_>),
    ) {
        if self.error.is_some() {
            return;
        }
        if let Some(wqe) = self.queue.resume() {
            wqe.stage();
        }
        let Some(flags) = send_flags(flags) else {
            self.error = Some(Errno::INVAL);
            return;
        };
        match self.queue.begin(opcode, flags, wr_id) {
            Ok(mut wqe) => {
                set(&mut wqe);
                wqe.suspend();
            }
            Err(error) => self.error = Some(error.into()),
        }
    }

    /// Adds payload to the element that is being built.
    fn fill(&mut self, set: impl FnOnce(&mut SendWriter<'_>) -> Result<(), PostError>) {
        if self.error.is_some() {
            return;
        }
        let outcome = match self.queue.resume() {
            Some(mut wqe) => {
                // The last setter counts, as these set and do not append.
                wqe.clear_payload();
                let outcome = set(&mut wqe).map_err(Errno::from);
                wqe.suspend();
                outcome
            }
            None => Err(Errno::INVAL),
        };
        self.error = outcome.err();
    }
}

unsafe extern "C" fn wr_start(qp: *mut ibv_qp_ex) {
    // SAFETY: a queue pair of this library, by the caller's contract.
    let qp = unsafe { Qp::of(qp.cast()) };
    let path = qp.path();
    path.send.acquire();
    // SAFETY: the lock is held, until `wr_complete` or `wr_abort`.
    let send = unsafe { path.send.get() };
    // Acquire: pairs with the releasing store of `QpPath::finished`.
    send.queue.advance(path.sent.load(Ordering::Acquire));
    let may_send = !matches!(qp.state(), IBV_QPS_RESET | IBV_QPS_INIT | IBV_QPS_RTR);
    send.error = (!may_send).then_some(Errno::INVAL);
}

unsafe extern "C" fn wr_complete(qp: *mut ibv_qp_ex) -> c_int {
    // SAFETY: a queue pair of this library, by the caller's contract.
    let path = unsafe { Qp::of(qp.cast()) }.path();
    // SAFETY: the lock was taken by `wr_start`.
    let send = unsafe { path.send.get() };
    let outcome = match send.error.take() {
        None => {
            if let Some(wqe) = send.queue.resume() {
                wqe.stage();
            }
            if send.queue.publish() != 0 {
                path.ring();
            }
            Ok(())
        }
        Some(error) => {
            send.queue.discard();
            Err(error)
        }
    };
    // SAFETY: taken by `wr_start`; the queue is not used behind this.
    unsafe { path.send.release() };
    to_code(outcome)
}

unsafe extern "C" fn wr_abort(qp: *mut ibv_qp_ex) {
    // SAFETY: a queue pair of this library, by the caller's contract.
    let path = unsafe { Qp::of(qp.cast()) }.path();
    // SAFETY: the lock was taken by `wr_start`; the queue is not used behind its release.
    unsafe {
        let send = path.send.get();
        send.queue.discard();
        send.error = None;
        path.send.release();
    }
}

/// Begins an element with the work request id and flags that the program left in the queue pair.
///
/// # Safety
/// As for [`state`].
unsafe fn build(qp: *mut ibv_qp_ex, opcode: Opcode, set: impl FnOnce(&mut SendWriter<'_>)) {
    // SAFETY: the caller's; the two fields are the program's.
    unsafe { state(qp).build(opcode, (*qp).wr_id, (*qp).wr_flags, set) }
}

unsafe extern "C" fn wr_send(qp: *mut ibv_qp_ex) {
    // SAFETY: called between start and complete.
    unsafe { build(qp, Opcode::Send, |_| ()) }
}

unsafe extern "C" fn wr_send_imm(qp: *mut ibv_qp_ex, imm: u32) {
    // SAFETY: called between start and complete.
    unsafe { build(qp, Opcode::SendWithImm, |wqe| wqe.imm(imm.to_ne_bytes())) }
}

unsafe extern "C" fn wr_rdma_write(qp: *mut ibv_qp_ex, rkey: u32, addr: u64) {
    // SAFETY: called between start and complete.
    unsafe { build(qp, Opcode::RdmaWrite, |wqe| wqe.remote(addr, rkey)) }
}

unsafe extern "C" fn wr_rdma_write_imm(qp: *mut ibv_qp_ex, rkey: u32, addr: u64, imm: u32) {
    // SAFETY: called between start and complete.
    unsafe {
        build(qp, Opcode::RdmaWriteWithImm, |wqe| {
            wqe.remote(addr, rkey);
            wqe.imm(imm.to_ne_bytes());
        })
    }
}

unsafe extern "C" fn wr_rdma_read(qp: *mut ibv_qp_ex, rkey: u32, addr: u64) {
    // SAFETY: called between start and complete.
    unsafe { build(qp, Opcode::RdmaRead, |wqe| wqe.remote(addr, rkey)) }
}

unsafe extern "C" fn wr_atomic_cmp_swp(
    qp: *mut ibv_qp_ex,
    rkey: u32,
    addr: u64,
    compare: u64,
    swap: u64,
) {
    // SAFETY: called between start and complete.
    unsafe {
        build(qp, Opcode::AtomicCmpSwap, |wqe| {
            wqe.remote(addr, rkey);
            wqe.operands(compare, swap);
        })
    }
}

unsafe extern "C" fn wr_atomic_fetch_add(qp: *mut ibv_qp_ex, rkey: u32, addr: u64, add: u64) {
    // SAFETY: called between start and complete.
    unsafe {
        build(qp, Opcode::AtomicFetchAdd, |wqe| {
            wqe.remote(addr, rkey);
            wqe.operands(add, 0);
        })
    }
}

unsafe extern "C" fn wr_set_sge(qp: *mut ibv_qp_ex, lkey: u32, addr: u64, length: u32) {
    // SAFETY: called between start and complete.
    unsafe { state(qp) }.fill(|wqe| wqe.sge(addr, length, lkey));
}

unsafe extern "C" fn wr_set_sge_list(qp: *mut ibv_qp_ex, count: usize, list: *const ibv_sge) {
    // SAFETY: the program's list of `count` entries.
    let list = if count == 0 { &[] } else { unsafe { slice::from_raw_parts(list, count) } };
    // SAFETY: called between start and complete.
    unsafe { state(qp) }
        .fill(|wqe| list.iter().try_for_each(|sge| wqe.sge(sge.addr, sge.length, sge.lkey)));
}

unsafe extern "C" fn wr_set_inline_data(qp: *mut ibv_qp_ex, addr: *mut c_void, length: usize) {
    // SAFETY: the program's bytes, read before this returns.
    let piece = unsafe { bytes(addr.expose_provenance() as u64, length) };
    // SAFETY: called between start and complete.
    unsafe { state(qp) }.fill(|wqe| wqe.inline(piece));
}

unsafe extern "C" fn wr_set_inline_data_list(
    qp: *mut ibv_qp_ex,
    count: usize,
    list: *const ibv_data_buf,
) {
    // SAFETY: the program's list of `count` pieces.
    let list = if count == 0 { &[] } else { unsafe { slice::from_raw_parts(list, count) } };
    // SAFETY: called between start and complete.
    unsafe { state(qp) }.fill(|wqe| {
        list.iter().try_for_each(|buf| {
            // SAFETY: the program's bytes, read before this returns.
            wqe.inline(unsafe { bytes(buf.addr.expose_provenance() as u64, buf.length) })
        })
    });
}
