// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The extended interfaces: `ibv_wr_*`, and `ibv_start_poll` and its companions.

use core::ptr;

use vnic_abi::cqe::{CqeFlags, WcOpcode};
use vnic_abi::wqe::{Opcode, WqeFlags};

use super::device::{CompletionRing, WorkRing, completion};
use super::kernel::Kernel;
use super::{Rig, Wish, qp_attr};
use crate::errno::Errno;
use crate::ffi::*;
use crate::{cq, qp, wr};

const ALL: u32 = IBV_QP_EX_WITH_SEND
    | IBV_QP_EX_WITH_SEND_WITH_IMM
    | IBV_QP_EX_WITH_RDMA_WRITE
    | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM
    | IBV_QP_EX_WITH_RDMA_READ
    | IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP
    | IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD;

fn rig() -> Rig {
    Rig::new(Wish { send_ops: Some(ALL.into()), extended_cq: true })
}

/// Calls an operation of the queue pair as the verbs header does.
macro_rules! call {
    ($object:expr, $operation:ident $(, $argument:expr)*) => {
        // SAFETY: the rig's own object, in an order that the verbs allow.
        unsafe { ((*$object).$operation.expect("not set"))($object $(, $argument)*) }
    };
}

#[test]
fn a_batch_becomes_visible_as_a_whole() {
    let rig = rig();
    let memory = rig.kernel.memory(Kernel::object(1));
    let mut device = WorkRing::send(&memory, 4, 64);
    let qp: *mut ibv_qp_ex = rig.qp.cast();
    let set = |wr_id, flags| {
        // SAFETY: the rig's own queue pair.
        unsafe {
            (*qp).wr_id = wr_id;
            (*qp).wr_flags = flags;
        }
    };
    call!(qp, wr_start);
    set(1, IBV_SEND_SIGNALED);
    call!(qp, wr_rdma_write_imm, 9, 0x1000, u32::from_ne_bytes([1, 2, 3, 4]));
    call!(qp, wr_set_sge, 7, 0x2000, 64);
    set(2, IBV_SEND_FENCE);
    call!(qp, wr_send);
    let text = *b"abcdef";
    let list = [
        ibv_data_buf { addr: text.as_ptr().cast_mut().cast(), length: 4 },
        ibv_data_buf { addr: ptr::null_mut(), length: 0 },
        ibv_data_buf { addr: text[4..].as_ptr().cast_mut().cast(), length: 2 },
    ];
    call!(qp, wr_set_inline_data_list, 3, list.as_ptr());
    set(3, 0);
    call!(qp, wr_atomic_cmp_swp, 11, 0x3000, 5, 6);
    let entry = ibv_sge { addr: 0x4000, length: 8, lkey: 12 };
    call!(qp, wr_set_sge_list, 1, &entry);
    set(4, 0);
    call!(qp, wr_send_imm, 0);
    assert!(device.take().is_none());
    assert_eq!(rig.kernel.take_doorbells(), 0);
    assert_eq!(call!(qp, wr_complete), 0);
    assert_eq!(rig.kernel.take_doorbells(), 1);

    let (wqe, _) = device.take_send().unwrap();
    assert_eq!((Opcode(wqe.opcode), wqe.wr_id.get()), (Opcode::RdmaWriteWithImm, 1));
    assert_eq!((wqe.remote_addr.get(), wqe.rkey.get(), wqe.imm), (0x1000, 9, [1, 2, 3, 4]));
    assert_eq!(wqe.num_sge, 1);
    let (wqe, payload) = device.take_send().unwrap();
    assert_eq!((wqe.length.get(), &payload[..6]), (6, &b"abcdef"[..]));
    assert_eq!(
        WqeFlags::from_bits_retain(wqe.flags) - WqeFlags::PHASE,
        WqeFlags::FENCE | WqeFlags::INLINE
    );
    let (wqe, payload) = device.take_send().unwrap();
    assert_eq!((Opcode(wqe.opcode), wqe.num_sge), (Opcode::AtomicCmpSwap, 1));
    assert_eq!(payload[..16], [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(device.take_send().unwrap().0.wr_id.get(), 4);
}

#[test]
fn an_aborted_or_failed_batch_leaves_nothing() {
    let rig = rig();
    let memory = rig.kernel.memory(Kernel::object(1));
    let mut device = WorkRing::send(&memory, 4, 64);
    let qp: *mut ibv_qp_ex = rig.qp.cast();

    call!(qp, wr_start);
    call!(qp, wr_send);
    call!(qp, wr_send);
    call!(qp, wr_abort);

    // Inline data that is too long, in the first of two.
    let long = [0u8; 33];
    call!(qp, wr_start);
    call!(qp, wr_send);
    call!(qp, wr_set_inline_data, long.as_ptr().cast_mut().cast(), 33);
    call!(qp, wr_send);
    assert_eq!(call!(qp, wr_complete), libc::EINVAL);

    // A setter without an operation.
    call!(qp, wr_start);
    call!(qp, wr_set_sge, 1, 2, 3);
    assert_eq!(call!(qp, wr_complete), libc::EINVAL);

    // More than the queue holds.
    call!(qp, wr_start);
    for _ in 0..5 {
        call!(qp, wr_send);
    }
    assert_eq!(call!(qp, wr_complete), libc::ENOMEM);
    assert!(device.take().is_none());
    assert_eq!(rig.kernel.take_doorbells(), 0);

    // None of that took room, or the lock.
    call!(qp, wr_start);
    for _ in 0..4 {
        call!(qp, wr_send);
    }
    assert_eq!(call!(qp, wr_complete), 0);
    assert!(device.take().is_some());

    call!(qp, wr_start);
    assert_eq!(call!(qp, wr_complete), 0);
}

#[test]
fn the_last_payload_of_an_operation_counts() {
    let rig = rig();
    let memory = rig.kernel.memory(Kernel::object(1));
    let qp: *mut ibv_qp_ex = rig.qp.cast();
    let text = *b"xy";
    call!(qp, wr_start);
    call!(qp, wr_send);
    call!(qp, wr_set_inline_data, text.as_ptr().cast_mut().cast(), 2);
    call!(qp, wr_set_sge, 7, 0x2000, 64);
    assert_eq!(call!(qp, wr_complete), 0);
    let (wqe, _) = WorkRing::send(&memory, 4, 64).take_send().unwrap();
    assert_eq!((wqe.num_sge, wqe.length.get(), wqe.flags & WqeFlags::INLINE.bits()), (1, 0, 0));
}

#[test]
fn operations_that_do_not_exist_are_refused() {
    assert_eq!(wr::check_operations(ALL.into()), Ok(()));
    let unknown = u64::from(ALL | IBV_QP_EX_WITH_BIND_MW);
    assert_eq!(wr::check_operations(unknown), Err(Errno::OPNOTSUPP));

    let rig = rig();
    let mut attr = qp_attr(rig.pd, rig.cq);
    attr.comp_mask |= IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
    attr.send_ops_flags = unknown;
    // SAFETY: valid attributes.
    unsafe {
        assert!(qp::create_qp_ex(rig.context, &mut attr).is_null());
        assert_eq!(*libc::__errno_location(), libc::EOPNOTSUPP);
        attr.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_MAX_TSO_HEADER;
        assert!(qp::create_qp_ex(rig.context, &mut attr).is_null());
        let mut attr = ibv_cq_init_attr_ex {
            cqe: 4,
            wc_flags: IBV_WC_EX_WITH_COMPLETION_TIMESTAMP.into(),
            ..Default::default()
        };
        assert!(cq::create_cq_ex(rig.context, &mut attr).is_null());
    }
}

#[test]
fn completions_are_read_field_by_field() {
    let rig = rig();
    let memory = rig.kernel.memory(Kernel::object(0));
    let mut device = CompletionRing::new(&memory, 8);
    let cq: *mut ibv_cq_ex = rig.cq.cast();
    let mut attr = ibv_poll_cq_attr::default();
    assert_eq!(call!(cq, start_poll, &mut attr), libc::ENOENT);

    let mut cqe = completion(rig.qpn(), WcOpcode::Recv, 5, 1);
    cqe.byte_len = 33.into();
    cqe.imm = [1, 2, 3, 4];
    cqe.flags = CqeFlags::WITH_IMM.bits();
    device.put(cqe);
    device.put(completion(rig.qpn(), WcOpcode::RdmaRead, 6, 1));
    // The failed attempt left the lock free.
    assert_eq!(call!(cq, start_poll, &mut attr), 0);
    // SAFETY: the rig's own queue.
    assert_eq!(unsafe { ((*cq).wr_id, (*cq).status) }, (5, IBV_WC_SUCCESS));
    assert_eq!(call!(cq, read_opcode), IBV_WC_RECV);
    assert_eq!(call!(cq, read_byte_len), 33);
    assert_eq!(call!(cq, read_imm_data).to_ne_bytes(), [1, 2, 3, 4]);
    assert_eq!(call!(cq, read_wc_flags), IBV_WC_WITH_IMM);
    assert_eq!(call!(cq, read_qp_num), rig.qpn());
    assert_eq!(call!(cq, next_poll), 0);
    // SAFETY: the rig's own queue.
    assert_eq!(unsafe { (*cq).wr_id }, 6);
    assert_eq!(call!(cq, read_opcode), IBV_WC_RDMA_READ);
    assert_eq!(call!(cq, next_poll), libc::ENOENT);
    call!(cq, end_poll);
    for _ in 0..8 {
        assert!(device.has_room());
        device.put(completion(rig.qpn(), WcOpcode::Send, 7, 1));
    }
    assert_eq!(rig.poll(16).len(), 8);
}
