// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Single properties of the queues: reset, arming, crossing out, limits, and two real threads.
#![allow(unsafe_code, reason = "queues are made from raw memory")]

mod device;

use device::{CompletionRing, Memory, WorkRing, completion, want_recv_doorbell};
use vnic_abi::cqe::{Arm, CQ_ARM_OFFSET, WcOpcode};
use vnic_abi::wqe::{Opcode, WqeFlags};
use vnic_verbs::{
    Completion, CompletionQueue, LayoutError, PostError, RecvQueue, SendLimits, SendQueue,
};

const LIMITS: SendLimits = SendLimits { max_sge: 2, max_inline: 32 };

#[test]
fn layouts_that_the_interface_does_not_know_are_refused() {
    let memory = Memory::new(8192);
    // SAFETY: every accepted size fits in the two pages; the values are dropped at once.
    unsafe {
        for depth in [0, 3, u32::MAX] {
            let refused = SendQueue::new(memory.at(0), depth, 64, LIMITS);
            assert_eq!(refused.unwrap_err(), LayoutError::Depth(depth));
        }
        for stride in [0, 32, 96, 1024] {
            let refused = RecvQueue::new(memory.at(0), memory.at(4096), 4, stride, 1);
            assert_eq!(refused.unwrap_err(), LayoutError::Stride(stride));
        }
        let refused = CompletionQueue::new(memory.at(8), 4);
        assert_eq!(refused.unwrap_err(), LayoutError::Alignment);
    }
}

#[test]
fn a_failed_element_leaves_the_ones_before_it_posted() {
    let qp = Memory::new(8192);
    // SAFETY: four elements of 64 bytes fit behind the control page.
    let mut sq = unsafe { SendQueue::new(qp.at(4096), 4, 64, LIMITS) }.unwrap();
    sq.begin(Opcode::Send, WqeFlags::empty(), 1).unwrap().post();
    let mut wqe = sq.begin(Opcode::Send, WqeFlags::empty(), 2).unwrap();
    assert_eq!(wqe.inline(&[0; 33]), Err(PostError::InlineTooLong));
    drop(wqe);

    let mut device = WorkRing::send(&qp, 4, 64);
    assert_eq!(device.take_send().unwrap().0.wr_id.get(), 1);
    assert!(device.take_send().is_none());
    assert_eq!((sq.free(), sq.posted()), (3, 1));
}

#[test]
fn counts_that_nobody_posted_free_nothing() {
    let qp = Memory::new(8192);
    // SAFETY: four elements of 64 bytes fit behind the control page.
    let mut sq = unsafe { SendQueue::new(qp.at(4096), 4, 64, LIMITS) }.unwrap();
    for wr_id in 0..3 {
        sq.begin(Opcode::Send, WqeFlags::empty(), wr_id).unwrap().post();
    }
    for count in [4, 1000, u32::MAX] {
        sq.advance(count);
        assert_eq!(sq.free(), 1, "count {count}");
    }
    sq.advance(2);
    sq.advance(1);
    assert_eq!(sq.free(), 3);
}

#[test]
fn a_reset_queue_starts_over() {
    let qp = Memory::new(3 * 4096);
    // SAFETY: the send queue lies in the second page, the receive queue in the third.
    let (mut sq, mut rq) = unsafe {
        (
            SendQueue::new(qp.at(4096), 4, 64, LIMITS).unwrap(),
            RecvQueue::new(qp.at(0), qp.at(8192), 4, 64, 2).unwrap(),
        )
    };
    for wr_id in 0..3 {
        sq.begin(Opcode::Send, WqeFlags::empty(), wr_id).unwrap().post();
        rq.post(wr_id, []).unwrap();
    }
    sq.begin(Opcode::Send, WqeFlags::empty(), 9).unwrap().stage();
    sq.reset();
    rq.reset();

    let mut device_sq = WorkRing::send(&qp, 4, 64);
    let mut device_rq = WorkRing::recv(&qp, 8192, 4, 64);
    assert!(device_sq.take().is_none() && device_rq.take().is_none());
    assert_eq!((sq.free(), rq.free()), (4, 4));
    sq.begin(Opcode::Send, WqeFlags::empty(), 7).unwrap().post();
    rq.post(8, []).unwrap();
    assert_eq!(device_sq.take_send().unwrap().0.wr_id.get(), 7);
    assert_eq!(device_rq.take_recv().unwrap().0.wr_id.get(), 8);
    assert!(device_sq.take().is_none());
}

#[test]
fn the_receive_doorbell_is_wanted_when_the_device_says_so() {
    let qp = Memory::new(8192);
    // SAFETY: four elements of 64 bytes fit behind the control page.
    let mut rq = unsafe { RecvQueue::new(qp.at(0), qp.at(4096), 4, 64, 2) }.unwrap();
    rq.post(1, []).unwrap();
    assert!(!rq.wants_doorbell());
    want_recv_doorbell(&qp, true);
    assert!(rq.wants_doorbell());
}

#[test]
fn arming_is_not_weakened_and_causes_one_event() {
    let memory = Memory::new(8192);
    // SAFETY: four elements fit behind the control page.
    let cq = unsafe { CompletionQueue::new(memory.at(0), 4) }.unwrap();
    let arm = || memory.word32(CQ_ARM_OFFSET as usize).load(std::sync::atomic::Ordering::Relaxed);
    cq.arm(true);
    assert_eq!(arm(), Arm::Solicited.0);
    cq.arm(false);
    cq.arm(true);
    assert_eq!(arm(), Arm::Any.0);

    let mut device = CompletionRing::new(&memory, 4);
    assert!(device.put(completion(1, WcOpcode::Send, 1, 1)));
    assert!(!device.put(completion(1, WcOpcode::Send, 2, 2)));
}

#[test]
fn a_destroyed_queue_pair_is_never_polled() {
    let memory = Memory::new(8192);
    // SAFETY: four elements fit behind the control page.
    let mut cq = unsafe { CompletionQueue::new(memory.at(0), 4) }.unwrap();
    let mut device = CompletionRing::new(&memory, 4);
    // Two laps, so that entries of the lap before lie behind the last valid one.
    for lap in 0..2 {
        for qpn in [1, 2, 1, 2] {
            device.put(completion(qpn, WcOpcode::Send, lap, 1));
        }
        assert_eq!(cq.discard(1), 2);
        assert_eq!(cq.discard(1), 0);
        let mut out = [Completion::default(); 4];
        assert_eq!(cq.poll(&mut out), 2);
        assert!(out[..2].iter().all(|done| done.qpn == 2 && done.wr_id == lap));
        assert!(device.has_room());
    }
    device.put(completion(1, WcOpcode::Send, 5, 1));
    cq.discard(1);
    assert_eq!(cq.take(), None);
}

#[test]
fn a_taken_completion_keeps_its_place_until_published() {
    let memory = Memory::new(8192);
    // SAFETY: two elements fit behind the control page.
    let mut cq = unsafe { CompletionQueue::new(memory.at(0), 2) }.unwrap();
    let mut device = CompletionRing::new(&memory, 2);
    device.put(completion(1, WcOpcode::Send, 1, 1));
    device.put(completion(1, WcOpcode::Send, 2, 2));
    assert_eq!(cq.take().unwrap().wr_id, 1);
    assert!(!device.has_room());
    cq.publish();
    assert!(device.has_room());
}

/// Driver and device in two threads, with small rings so that both sides wait for each other.
#[test]
fn two_threads_pass_every_element() {
    const COUNT: u64 = 20_000;
    let qp = Memory::new(8192);
    let completions = Memory::new(8192);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sq = WorkRing::send(&qp, 8, 64);
            let mut cq = CompletionRing::new(&completions, 4);
            for expected in 0..COUNT {
                let (wqe, payload) = loop {
                    match sq.take_send() {
                        Some(taken) => break taken,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!(wqe.wr_id.get(), expected);
                assert_eq!(payload[..8], expected.to_le_bytes());
                while !cq.has_room() {
                    std::thread::yield_now();
                }
                cq.put(completion(1, WcOpcode::Send, expected, sq.count));
            }
        });

        // SAFETY: eight elements of 64 bytes, and four of 32, fit behind the control pages.
        let (mut sq, mut cq) = unsafe {
            (
                SendQueue::new(qp.at(4096), 8, 64, LIMITS).unwrap(),
                CompletionQueue::new(completions.at(0), 4).unwrap(),
            )
        };
        let (mut posted, mut polled) = (0, 0);
        while polled < COUNT {
            if posted < COUNT
                && let Ok(mut wqe) = sq.begin(Opcode::Send, WqeFlags::SIGNALED, posted)
            {
                wqe.inline(&posted.to_le_bytes()).unwrap();
                wqe.post();
                posted += 1;
            }
            match cq.take() {
                Some(done) => {
                    assert_eq!(done.wr_id, polled);
                    sq.advance(done.wqe_count);
                    polled += 1;
                    cq.publish();
                }
                None => std::thread::yield_now(),
            }
        }
    });
}
