// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Making and destroying objects: what fails leaves nothing, and what is gone is never polled.

use core::ptr;

use vnic_abi::cqe::WcOpcode;

use super::device::{CompletionRing, WorkRing, completion};
use super::kernel::{Kernel, operations};
use super::{Rig, Wish, close, open, qp_attr};
use crate::ffi::*;
use crate::post::post_send;
use crate::{cq, mr, pd, qp};

fn errno() -> i32 {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() }
}

fn send(qp: *mut ibv_qp, wr_id: u64) -> i32 {
    let mut wr = ibv_send_wr { wr_id, opcode: IBV_WR_SEND, ..Default::default() };
    let mut bad = ptr::null_mut();
    // SAFETY: one valid request.
    unsafe { post_send(qp, &mut wr, &mut bad) }
}

#[test]
fn a_context_that_cannot_be_opened_closes_its_file() {
    let kernel = Kernel::new();
    kernel.fail_next(libc::EACCES);
    // SAFETY: the stand-in takes no device.
    let context = unsafe { crate::context::open(ptr::null_mut(), kernel.fd(), ptr::null_mut()) };
    assert!(context.is_null());
    assert_eq!(errno(), libc::EACCES);
}

#[test]
fn objects_that_cannot_be_mapped_are_destroyed_in_the_kernel() {
    let rig = Rig::new(Wish::default());
    let before = rig.kernel.objects();
    // SAFETY: valid arguments.
    unsafe {
        for length in [0, 4096, 4096 + 255] {
            rig.kernel.shorten_next(length);
            assert!(cq::create_cq(rig.context, 8, ptr::null_mut(), 0).is_null(), "{length}");
        }
        for depth in [0, 3] {
            rig.kernel.next_depth(depth);
            assert!(cq::create_cq(rig.context, 8, ptr::null_mut(), 0).is_null());
            assert_eq!(errno(), libc::EPROTO);
        }
        for length in [0, 4096, 8192] {
            rig.kernel.shorten_next(length);
            let mut attr = qp_attr(rig.pd, rig.cq);
            assert!(qp::create_qp_ex(rig.context, &mut attr).is_null(), "{length}");
        }
        rig.kernel.fail_next(libc::ENOSPC);
        assert!(cq::create_cq(rig.context, 8, ptr::null_mut(), 0).is_null());
        assert_eq!(errno(), libc::ENOSPC);
        assert!(cq::create_cq(rig.context, -1, ptr::null_mut(), 0).is_null());
        assert_eq!(errno(), libc::EINVAL);
    }
    assert_eq!(rig.kernel.objects(), before);
}

#[test]
fn what_was_granted_is_told() {
    let rig = Rig::new(Wish::default());
    let mut attr = ibv_qp_init_attr {
        send_cq: rig.cq,
        recv_cq: rig.cq,
        qp_type: IBV_QPT_RC,
        ..Default::default()
    };
    attr.cap.max_send_wr = 3;
    attr.cap.max_recv_wr = 1;
    // SAFETY: valid arguments.
    unsafe {
        let qp = qp::create_qp(rig.pd, &mut attr);
        assert!(!qp.is_null());
        assert_eq!(attr.cap.max_send_wr, 4);
        assert_eq!(qp::destroy_qp(qp), 0);
    }
}

#[test]
fn completions_of_a_destroyed_queue_pair_are_not_polled() {
    let mut rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(0));
    let mut device = CompletionRing::new(&memory, 8);
    let mut attr = qp_attr(rig.pd, rig.cq);
    // SAFETY: valid arguments.
    let other = unsafe { qp::create_qp_ex(rig.context, &mut attr) };
    // SAFETY: made above.
    let other_qpn = unsafe { (*other).qp_num };
    for (qpn, wr_id) in [(rig.qpn(), 1), (other_qpn, 2), (rig.qpn(), 3)] {
        device.put(completion(qpn, WcOpcode::Send, wr_id, 1));
    }
    // Makes it the queue pair that the completion queue remembers.
    assert_eq!(rig.poll(1)[0].wr_id, 1);
    // SAFETY: destroyed once.
    assert_eq!(unsafe { qp::destroy_qp(rig.qp) }, 0);
    rig.qp = ptr::null_mut();
    let done = rig.poll(8);
    assert_eq!(done.iter().map(|wc| wc.wr_id).collect::<Vec<_>>(), [2]);
    // SAFETY: destroyed once.
    assert_eq!(unsafe { qp::destroy_qp(other) }, 0);
}

#[test]
fn a_number_that_is_used_again_belongs_to_the_new_queue_pair() {
    let mut rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(0));
    let mut device = CompletionRing::new(&memory, 8);
    let qpn = rig.qpn();
    device.put(completion(qpn, WcOpcode::Send, 1, 1));
    // The kernel has destroyed the first and gives its number away before that was noticed here.
    rig.kernel.next_qpn(qpn);
    let mut attr = qp_attr(rig.pd, rig.cq);
    // SAFETY: valid arguments.
    let new = unsafe { qp::create_qp_ex(rig.context, &mut attr) };
    // SAFETY: made above.
    unsafe { (*new).state = IBV_QPS_RTS };
    for wr_id in 10..14 {
        assert_eq!(send(new, wr_id), 0);
    }
    device.put(completion(qpn, WcOpcode::Send, 13, 4));
    // SAFETY: destroyed once.
    assert_eq!(unsafe { qp::destroy_qp(rig.qp) }, 0);
    rig.qp = new;
    assert_eq!(rig.poll(8).iter().map(|wc| wc.wr_id).collect::<Vec<_>>(), [13]);
    assert_eq!(send(new, 14), 0);
}

#[test]
fn a_reset_queue_pair_starts_over() {
    let rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(1));
    for wr_id in 0..4 {
        assert_eq!(send(rig.qp, wr_id), 0);
    }
    let completions = rig.kernel.memory(Kernel::object(0));
    let mut cq = CompletionRing::new(&completions, 8);
    cq.put(completion(rig.qpn(), WcOpcode::Send, 0, 1));
    cq.put(completion(rig.qpn(), WcOpcode::Send, 1, 2));
    assert_eq!(rig.poll(1).len(), 1);
    let mut attr = ibv_qp_attr { qp_state: IBV_QPS_RESET, ..Default::default() };
    // SAFETY: valid arguments.
    unsafe {
        // A change that the kernel refuses changes nothing here.
        rig.kernel.fail_next(libc::EINVAL);
        assert_eq!(qp::modify_qp(rig.qp, &mut attr, IBV_QP_STATE as i32), libc::EINVAL);
        assert!(WorkRing::send(&memory, 4, 64).take().is_some());
        assert_eq!(qp::modify_qp(rig.qp, &mut attr, IBV_QP_STATE as i32), 0);
    }
    assert!(rig.poll(8).is_empty());
    let mut device = WorkRing::send(&memory, 4, 64);
    assert!(device.take().is_none());
    for wr_id in 20..24 {
        assert_eq!(send(rig.qp, wr_id), 0);
    }
    assert_eq!(device.take_send().unwrap().0.wr_id.get(), 20);
}

#[test]
fn domains_are_kept_while_a_parent_domain_uses_them() {
    let rig = Rig::new(Wish::default());
    // SAFETY: valid arguments; each object is freed once.
    unsafe {
        let td = pd::alloc_td(rig.context, &mut ibv_td_init_attr::default());
        let mut attr = ibv_parent_domain_init_attr { pd: rig.pd, td, ..Default::default() };
        let parent = pd::alloc_parent_domain(rig.context, &mut attr);
        assert!(pd::is_single_threaded(parent) && !pd::is_single_threaded(rig.pd));
        assert_eq!(pd::dealloc_td(td), libc::EBUSY);
        assert_eq!(pd::dealloc_pd(rig.pd), libc::EBUSY);

        // Works without its locks.
        let qp = qp::create_qp_ex(rig.context, &mut qp_attr(parent, rig.cq));
        (*qp).state = IBV_QPS_RTS;
        assert_eq!(send(qp, 1), 0);
        assert_eq!(qp::destroy_qp(qp), 0);

        assert_eq!(pd::dealloc_pd(parent), 0);
        assert_eq!(pd::dealloc_td(td), 0);
        attr.pd = ptr::null_mut();
        assert!(pd::alloc_parent_domain(rig.context, &mut attr).is_null());
    }
}

#[test]
fn a_region_is_the_kernel_s() {
    let rig = Rig::new(Wish::default());
    // SAFETY: the address is never used.
    unsafe {
        let address = ptr::without_provenance_mut(0x1000);
        let region = mr::reg_mr(rig.pd, address, 1 << 40, 0x1000, 0);
        assert_eq!((*region).length, 1 << 40);
        assert_eq!(mr::dereg_mr(region.cast()), 0);
        rig.kernel.fail_next(libc::ENOMEM);
        assert!(mr::reg_mr(rig.pd, address, 1, 0, 0).is_null());
        assert_eq!(errno(), libc::ENOMEM);
    }
}

#[test]
fn a_change_and_advice_reach_the_kernel_as_they_are() {
    let rig = Rig::new(Wish::default());
    // SAFETY: the addresses are never used.
    unsafe {
        let address = ptr::without_provenance_mut(0x1000);
        let region = mr::reg_mr(rig.pd, address, 1 << 20, 0x1000, 0).cast::<verbs_mr>();
        let elsewhere = ptr::without_provenance_mut(0x5000);
        let translation = IBV_REREG_MR_CHANGE_TRANSLATION as i32;
        // Without a domain there is none to be looked at.
        assert_eq!(mr::rereg_mr(region, translation, ptr::null_mut(), elsewhere, 7, 0), 0);
        assert_eq!(rig.kernel.asked(), "1 0x5000 7 0x5000 0 true");
        let access = IBV_ACCESS_ON_DEMAND as i32;
        let both = (IBV_REREG_MR_CHANGE_PD | IBV_REREG_MR_CHANGE_ACCESS) as i32;
        assert_eq!(mr::rereg_mr(region, both, rig.pd, ptr::null_mut(), 0, access), 0);
        assert_eq!(rig.kernel.asked(), "6 0x0 0 0x0 64 false");
        assert_eq!((*region).access, 0);
        rig.kernel.fail_next(libc::EINVAL);
        assert_eq!(mr::rereg_mr(region, translation, ptr::null_mut(), address, 1, 0), libc::EINVAL);

        let mut list = [10, 20].map(|length| ibv_sge { length, ..Default::default() });
        let advice = IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE;
        let flush = IB_UVERBS_ADVISE_MR_FLAG_FLUSH;
        assert_eq!(mr::advise_mr(rig.pd, advice, flush, list.as_mut_ptr(), 2), 0);
        assert_eq!(rig.kernel.asked(), "1 1 [10, 20]");
        rig.kernel.fail_next(libc::EFAULT);
        assert_eq!(mr::advise_mr(rig.pd, advice, 0, list.as_mut_ptr(), 1), libc::EFAULT);
        assert_eq!(mr::dereg_mr(region), 0);
    }
}

#[test]
fn the_device_tells_its_version() {
    let (_kernel, context) = open();
    let mut attr = ibv_device_attr_ex::default();
    let query = operations().query_device_ex.unwrap();
    // SAFETY: valid arguments.
    assert_eq!(unsafe { query(context, ptr::null(), &mut attr, size_of_val(&attr)) }, 0);
    let text: Vec<u8> = attr.orig_attr.fw_ver.iter().map(|c| *c as u8).collect();
    assert_eq!(&text[..6], b"1.2.3\0");
    close(context);
}
