// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `ibv_post_send`, `ibv_post_recv` and `ibv_poll_cq`, down to the bytes that the device reads.

use core::ptr;

use vnic_abi::cqe::{Cqe, CqeFlags, WcOpcode, WcStatus};
use vnic_abi::wqe::{AtomicWqe, Opcode, Sge, WqeFlags};
use zerocopy::FromBytes;

use super::device::{CompletionRing, WorkRing, completion, want_recv_doorbell};
use super::kernel::{KICK_VALUE, Kernel};
use super::{Rig, Wish};
use crate::ffi::*;
use crate::post::{post_recv, post_send};

fn sge(addr: u64, length: u32, lkey: u32) -> ibv_sge {
    ibv_sge { addr, length, lkey }
}

/// A request with a list of entries, which must outlive it.
fn request(wr_id: u64, opcode: ibv_wr_opcode, sges: &mut [ibv_sge]) -> ibv_send_wr {
    ibv_send_wr {
        wr_id,
        opcode,
        sg_list: sges.as_mut_ptr(),
        num_sge: sges.len() as i32,
        ..Default::default()
    }
}

/// Posts a list, and returns the outcome and which request failed.
fn post(rig: &Rig, requests: &mut [ibv_send_wr]) -> (i32, Option<u64>) {
    for i in 1..requests.len() {
        requests[i - 1].next = &raw mut requests[i];
    }
    let mut bad = ptr::null_mut();
    // SAFETY: the list ends with null.
    let code = unsafe { post_send(rig.qp, requests.as_mut_ptr(), &mut bad) };
    // SAFETY: null or one of the requests.
    (code, unsafe { bad.as_ref() }.map(|wr| wr.wr_id))
}

#[test]
fn every_operation_reaches_the_device_as_the_wire_types_say() {
    let rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(1));
    let mut device = WorkRing::send(&memory, 4, 64);
    let mut sges = [sge(0x1000, 10, 7), sge(0x2000, 20, 8)];

    let mut wr = request(1, IBV_WR_SEND_WITH_IMM, &mut sges);
    wr.send_flags = IBV_SEND_SIGNALED | IBV_SEND_SOLICITED;
    wr.__bindgen_anon_1.imm_data = u32::from_ne_bytes([1, 2, 3, 4]);
    assert_eq!(post(&rig, &mut [wr]), (0, None));
    let (wqe, payload) = device.take_send().unwrap();
    assert_eq!((Opcode(wqe.opcode), wqe.wr_id.get()), (Opcode::SendWithImm, 1));
    assert_eq!((wqe.imm, wqe.num_sge, wqe.rkey.get()), ([1, 2, 3, 4], 2, 0));
    let flags = WqeFlags::from_bits_retain(wqe.flags) - WqeFlags::PHASE;
    assert_eq!(flags, WqeFlags::SIGNALED | WqeFlags::SOLICITED);
    let (entry, _) = Sge::read_from_prefix(&payload[16..]).unwrap();
    assert_eq!((entry.addr.get(), entry.length.get(), entry.lkey.get()), (0x2000, 20, 8));

    for (opcode, expected) in [
        (IBV_WR_RDMA_WRITE, Opcode::RdmaWrite),
        (IBV_WR_RDMA_READ, Opcode::RdmaRead),
        (IBV_WR_RDMA_WRITE_WITH_IMM, Opcode::RdmaWriteWithImm),
    ] {
        let mut wr = request(2, opcode, &mut sges[..1]);
        wr.send_flags = IBV_SEND_FENCE;
        wr.wr.rdma = ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr: 0xabc, rkey: 99 };
        assert_eq!(post(&rig, &mut [wr]), (0, None));
        let (wqe, _) = device.take_send().unwrap();
        assert_eq!(Opcode(wqe.opcode), expected);
        assert_eq!((wqe.remote_addr.get(), wqe.rkey.get(), wqe.num_sge), (0xabc, 99, 1));
        assert_eq!(wqe.flags & !WqeFlags::PHASE.bits(), WqeFlags::FENCE.bits());
    }
    assert_eq!(rig.kernel.take_doorbells(), 1);
}

#[test]
fn atomics_carry_their_operands() {
    let rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(1));
    let mut device = WorkRing::send(&memory, 4, 64);
    let mut sges = [sge(0x1000, 8, 7)];
    for (opcode, operands) in
        [(IBV_WR_ATOMIC_CMP_AND_SWP, (5, 6)), (IBV_WR_ATOMIC_FETCH_AND_ADD, (5, 0))]
    {
        let mut wr = request(3, opcode, &mut sges);
        wr.wr.atomic = ibv_send_wr__bindgen_ty_2__bindgen_ty_2 {
            remote_addr: 0x8000,
            compare_add: 5,
            swap: 6,
            rkey: 42,
        };
        assert_eq!(post(&rig, &mut [wr]), (0, None));
        let bytes = device.take().unwrap();
        let (wqe, payload) = AtomicWqe::read_from_prefix(&bytes).unwrap();
        assert_eq!((wqe.compare_add.get(), wqe.swap.get()), operands);
        assert_eq!((wqe.base.remote_addr.get(), wqe.base.rkey.get()), (0x8000, 42));
        assert_eq!(Sge::read_from_prefix(payload).unwrap().0.lkey.get(), 7);
    }
}

#[test]
fn inline_data_is_gathered_while_posting() {
    let rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(1));
    let mut device = WorkRing::send(&memory, 4, 64);
    let (mut first, second) = (*b"hello ", *b"world");
    let mut sges =
        [sge(first.as_ptr() as u64, 6, 0), sge(second.as_ptr() as u64, 5, 0), sge(0, 0, 0)];
    let mut wr = request(1, IBV_WR_SEND, &mut sges);
    wr.send_flags = IBV_SEND_INLINE;
    assert_eq!(post(&rig, &mut [wr]), (0, None));
    first.fill(0);
    let (wqe, payload) = device.take_send().unwrap();
    assert_eq!((wqe.num_sge, wqe.length.get()), (0, 11));
    assert!(wqe.flags & WqeFlags::INLINE.bits() != 0);
    assert_eq!(&payload[..11], b"hello world");
}

#[test]
fn a_bad_request_is_named_and_those_before_it_stay_posted() {
    let long = [0u8; 33];
    let mut sges = [sge(long.as_ptr() as u64, 33, 0), sge(0, 1, 1), sge(0, 1, 1)];
    let bad_requests: [fn(&mut ibv_send_wr); 6] = [
        |wr| wr.opcode = IBV_WR_LOCAL_INV,
        |wr| wr.opcode = 0xffff,
        |wr| wr.send_flags = 1 << 20,
        |wr| wr.num_sge = -1,
        |wr| wr.num_sge = 3,
        |wr| wr.send_flags = IBV_SEND_INLINE,
    ];
    for spoil in bad_requests {
        let rig = Rig::new(Wish::default());
        let memory = rig.kernel.memory(Kernel::object(1));
        let mut device = WorkRing::send(&memory, 4, 64);
        let list = sges.as_mut_ptr();
        let mut requests = [1, 2, 3].map(|id| ibv_send_wr {
            wr_id: id,
            opcode: IBV_WR_SEND,
            sg_list: list,
            num_sge: 1,
            ..Default::default()
        });
        spoil(&mut requests[1]);
        assert_eq!(post(&rig, &mut requests), (libc::EINVAL, Some(2)));
        assert_eq!(device.take_send().unwrap().0.wr_id.get(), 1);
        assert!(device.take_send().is_none());
        assert_eq!(rig.kernel.take_doorbells(), 1);
    }
}

#[test]
fn a_full_queue_refuses_until_a_completion_is_polled() {
    let rig = Rig::new(Wish::default());
    let mut requests = [1, 2, 3, 4, 5].map(|id| request(id, IBV_WR_SEND, &mut []));
    assert_eq!(post(&rig, &mut requests), (libc::ENOMEM, Some(5)));
    assert_eq!(post(&rig, &mut [request(6, IBV_WR_SEND, &mut [])]), (libc::ENOMEM, Some(6)));

    // The third completes, the first two were not signalled.
    let memory = rig.kernel.memory(Kernel::object(0));
    CompletionRing::new(&memory, 8).put(completion(rig.qpn(), WcOpcode::Send, 3, 3));
    assert_eq!(rig.poll(4).len(), 1);
    let mut requests = [6, 7, 8, 9].map(|id| request(id, IBV_WR_SEND, &mut []));
    assert_eq!(post(&rig, &mut requests), (libc::ENOMEM, Some(9)));
}

#[test]
fn a_sleeping_device_is_kicked_and_an_awake_one_is_not() {
    let rig = Rig::new(Wish::default());
    assert_eq!(post(&rig, &mut [request(1, IBV_WR_SEND, &mut [])]), (0, None));
    assert_eq!(rig.kernel.take_kick(), 0);
    rig.kernel.sleep(true);
    assert_eq!(post(&rig, &mut [request(2, IBV_WR_SEND, &mut [])]), (0, None));
    assert_eq!(rig.kernel.take_kick(), KICK_VALUE);
}

#[test]
fn a_queue_pair_that_may_not_send_takes_nothing() {
    let rig = Rig::new(Wish::default());
    for state in [IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR] {
        // SAFETY: the rig's own queue pair; libibverbs changes the field in the same way.
        unsafe { (*rig.qp).state = state };
        let outcome = post(&rig, &mut [request(1, IBV_WR_SEND, &mut [])]);
        assert_eq!(outcome, (libc::EINVAL, Some(1)));
    }
    assert_eq!(rig.kernel.take_doorbells(), 0);
}

#[test]
fn receive_elements_are_posted_and_rung_only_if_wanted() {
    let rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(1));
    let mut device = WorkRing::recv(&memory, 8192, 4, 64);
    let mut sges = [sge(0x1000, 10, 7), sge(0x2000, 20, 8), sge(0, 1, 1)];
    let mut bad = ptr::null_mut();
    let mut post = |wr_id, num_sge| {
        let list = sges.as_mut_ptr();
        let mut wr = ibv_recv_wr { wr_id, sg_list: list, num_sge, ..Default::default() };
        // SAFETY: one valid request.
        unsafe { post_recv(rig.qp, &mut wr, &mut bad) }
    };
    assert_eq!(post(1, 2), 0);
    assert_eq!(rig.kernel.take_doorbells(), 0);
    want_recv_doorbell(&memory, true);
    assert_eq!(post(2, 0), 0);
    assert_eq!(rig.kernel.take_doorbells(), 1);
    assert_eq!(post(3, 3), libc::EINVAL);
    assert_eq!((post(3, 0), post(4, 0), post(5, 0)), (0, 0, libc::ENOMEM));

    let (wqe, payload) = device.take_recv().unwrap();
    assert_eq!((wqe.wr_id.get(), wqe.num_sge), (1, 2));
    assert_eq!(Sge::read_from_prefix(&payload).unwrap().0.addr.get(), 0x1000);
    assert_eq!(device.take_recv().unwrap().0.num_sge, 0);
}

#[test]
fn a_completion_shows_what_the_device_wrote() {
    let rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(0));
    let mut device = CompletionRing::new(&memory, 8);
    device.put(Cqe {
        byte_len: 77.into(),
        imm: [9, 8, 7, 6],
        src_qp: 5.into(),
        status: WcStatus::RnrRetryExcErr.0,
        flags: (CqeFlags::WITH_IMM | CqeFlags::GRH).bits(),
        ..completion(rig.qpn(), WcOpcode::RecvRdmaWithImm, 123, 1)
    });
    // Of a queue pair that nobody knows: delivered all the same.
    device.put(completion(0xff_0000, WcOpcode::RdmaRead, 124, 1));
    let done = rig.poll(4);
    assert_eq!(done.len(), 2);
    let wc = &done[0];
    assert_eq!((wc.wr_id, wc.byte_len, wc.qp_num, wc.src_qp), (123, 77, rig.qpn(), 5));
    assert_eq!((wc.status, wc.opcode), (IBV_WC_RNR_RETRY_EXC_ERR, IBV_WC_RECV_RDMA_WITH_IMM));
    assert_eq!(wc.wc_flags, IBV_WC_WITH_IMM | IBV_WC_GRH);
    // SAFETY: the flag says that it is set.
    assert_eq!(unsafe { wc.__bindgen_anon_1.imm_data }.to_ne_bytes(), [9, 8, 7, 6]);
    assert_eq!(done[1].opcode, IBV_WC_RDMA_READ);
}
