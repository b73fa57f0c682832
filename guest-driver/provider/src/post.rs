// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Posting lists of work requests: `ibv_post_send` and `ibv_post_recv`.

use core::ffi::c_int;
use core::slice;
use core::sync::atomic::Ordering;

use vnic_abi::wqe::{Opcode, Sge, WqeFlags};
use vnic_verbs::{RecvQueue, SendQueue};

use crate::errno::{Errno, to_code};
use crate::ffi::{
    IBV_QPS_INIT, IBV_QPS_RESET, IBV_QPS_RTR, IBV_SEND_FENCE, IBV_SEND_INLINE, IBV_SEND_SIGNALED,
    IBV_SEND_SOLICITED, IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WR_RDMA_READ,
    IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_SEND, IBV_WR_SEND_WITH_IMM, ibv_qp,
    ibv_recv_wr, ibv_send_wr, ibv_sge, ibv_wr_opcode,
};
use crate::qp::Qp;

/// The element flags for the flags of a work request; `None` if one of these is not known.
pub(crate) fn send_flags(flags: u32) -> Option<WqeFlags> {
    const KNOWN: u32 = IBV_SEND_FENCE | IBV_SEND_SIGNALED | IBV_SEND_SOLICITED | IBV_SEND_INLINE;
    if flags & !KNOWN != 0 {
        return None;
    }
    let mut wqe = WqeFlags::empty();
    wqe.set(WqeFlags::FENCE, flags & IBV_SEND_FENCE != 0);
    wqe.set(WqeFlags::SIGNALED, flags & IBV_SEND_SIGNALED != 0);
    wqe.set(WqeFlags::SOLICITED, flags & IBV_SEND_SOLICITED != 0);
    Some(wqe)
}

fn opcode(opcode: ibv_wr_opcode) -> Option<Opcode> {
    Some(match opcode {
        IBV_WR_RDMA_WRITE => Opcode::RdmaWrite,
        IBV_WR_RDMA_WRITE_WITH_IMM => Opcode::RdmaWriteWithImm,
        IBV_WR_SEND => Opcode::Send,
        IBV_WR_SEND_WITH_IMM => Opcode::SendWithImm,
        IBV_WR_RDMA_READ => Opcode::RdmaRead,
        IBV_WR_ATOMIC_CMP_AND_SWP => Opcode::AtomicCmpSwap,
        IBV_WR_ATOMIC_FETCH_AND_ADD => Opcode::AtomicFetchAdd,
        _ => return None,
    })
}

/// The gather or scatter list of a work request.
///
/// # Safety
/// If `count` is positive, `list` points to as many entries that stay unchanged while the result is
/// used.
unsafe fn sges<'a>(list: *const ibv_sge, count: c_int) -> Result<&'a [ibv_sge], Errno> {
    match usize::try_from(count) {
        Ok(0) => Ok(&[]),
        // SAFETY: the caller's.
        Ok(count) => Ok(unsafe { slice::from_raw_parts(list, count) }),
        Err(_) => Err(Errno::INVAL),
    }
}

/// The program's bytes at an address.
///
/// # Safety
/// `length` bytes at `addr` can be read, and stay unchanged while the result is used.
pub(crate) unsafe fn bytes<'a>(addr: u64, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller's; the address is one of this process.
    unsafe { slice::from_raw_parts(core::ptr::with_exposed_provenance(addr as usize), length) }
}

pub(crate) unsafe extern "C" fn post_send(
    qp: *mut ibv_qp,
    mut wr: *mut ibv_send_wr,
    bad_wr: *mut *mut ibv_send_wr,
) -> c_int {
    // SAFETY: a queue pair of this library, by the caller's contract.
    let qp = unsafe { Qp::of(qp) };
    let path = qp.path();
    let may_send = !matches!(qp.state(), IBV_QPS_RESET | IBV_QPS_INIT | IBV_QPS_RTR);
    let outcome = path.send.with(|send| {
        let before = send.queue.posted();
        // Acquire: pairs with the releasing store of `QpPath::finished`.
        send.queue.advance(path.sent.load(Ordering::Acquire));
        let mut outcome = if may_send { Ok(()) } else { Err(Errno::INVAL) };
        // SAFETY: a list of work requests ends with null, and is the caller's.
        while let (Ok(()), Some(request)) = (outcome, unsafe { wr.as_ref() }) {
            // SAFETY: what a request points to is the caller's.
            outcome = unsafe { post_one(&mut send.queue, request) };
            if outcome.is_ok() {
                wr = request.next;
            }
        }
        // Requests before a bad one stay posted.
        if send.queue.posted() != before {
            path.ring();
        }
        outcome
    });
    if outcome.is_err() {
        // SAFETY: the caller's place for the request that failed.
        unsafe { *bad_wr = wr };
    }
    to_code(outcome)
}

/// # Safety
/// What `wr` points to is valid, as the verbs require.
unsafe fn post_one(queue: &mut SendQueue, wr: &ibv_send_wr) -> Result<(), Errno> {
    let opcode = opcode(wr.opcode).ok_or(Errno::INVAL)?;
    let flags = send_flags(wr.send_flags).ok_or(Errno::INVAL)?;
    // SAFETY: the caller's.
    let list = unsafe { sges(wr.sg_list, wr.num_sge)? };
    let mut wqe = queue.begin(opcode, flags, wr.wr_id)?;
    // SAFETY: the opcode tells which member of the unions the program set; all are plain numbers.
    unsafe {
        match opcode {
            Opcode::RdmaWrite | Opcode::RdmaWriteWithImm | Opcode::RdmaRead => {
                wqe.remote(wr.wr.rdma.remote_addr, wr.wr.rdma.rkey);
            }
            Opcode::AtomicCmpSwap => {
                wqe.remote(wr.wr.atomic.remote_addr, wr.wr.atomic.rkey);
                wqe.operands(wr.wr.atomic.compare_add, wr.wr.atomic.swap);
            }
            Opcode::AtomicFetchAdd => {
                wqe.remote(wr.wr.atomic.remote_addr, wr.wr.atomic.rkey);
                wqe.operands(wr.wr.atomic.compare_add, 0);
            }
            _ => {}
        }
        if matches!(opcode, Opcode::SendWithImm | Opcode::RdmaWriteWithImm) {
            wqe.imm(wr.__bindgen_anon_1.imm_data.to_ne_bytes());
        }
    }
    let inline = wr.send_flags & IBV_SEND_INLINE != 0;
    for sge in list {
        if inline {
            // SAFETY: the verbs say that inline data is read while posting, so that the program
            // keeps it until then.
            wqe.inline(unsafe { bytes(sge.addr, sge.length as usize) })?;
        } else {
            wqe.sge(sge.addr, sge.length, sge.lkey)?;
        }
    }
    wqe.post();
    Ok(())
}

pub(crate) unsafe extern "C" fn post_recv(
    qp: *mut ibv_qp,
    mut wr: *mut ibv_recv_wr,
    bad_wr: *mut *mut ibv_recv_wr,
) -> c_int {
    // SAFETY: a queue pair of this library, by the caller's contract.
    let qp = unsafe { Qp::of(qp) };
    let path = qp.path();
    let may_receive = qp.state() != IBV_QPS_RESET;
    let outcome = path.recv.with(|recv| {
        let Some(queue) = recv.as_mut().filter(|_| may_receive) else { return Err(Errno::INVAL) };
        let before = queue.posted();
        // Acquire: pairs with the releasing store of `QpPath::finished`.
        queue.advance(path.received.load(Ordering::Acquire));
        let mut outcome = Ok(());
        // SAFETY: a list of work requests ends with null, and is the caller's.
        while let (Ok(()), Some(request)) = (outcome, unsafe { wr.as_ref() }) {
            // SAFETY: what a request points to is the caller's.
            outcome = unsafe { post_one_recv(queue, request) };
            if outcome.is_ok() {
                wr = request.next;
            }
        }
        if queue.posted() != before && queue.wants_doorbell() {
            path.ring();
        }
        outcome
    });
    if outcome.is_err() {
        // SAFETY: the caller's place for the request that failed.
        unsafe { *bad_wr = wr };
    }
    to_code(outcome)
}

/// # Safety
/// What `wr` points to is valid, as the verbs require.
unsafe fn post_one_recv(queue: &mut RecvQueue, wr: &ibv_recv_wr) -> Result<(), Errno> {
    // SAFETY: the caller's.
    let list = unsafe { sges(wr.sg_list, wr.num_sge)? };
    let entries = list.iter().map(|sge| Sge {
        addr: sge.addr.into(),
        length: sge.length.into(),
        lkey: sge.lkey.into(),
    });
    Ok(queue.post(wr.wr_id, entries)?)
}
