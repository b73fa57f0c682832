// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Asking for events, and several threads at once.

use std::sync::atomic::Ordering;

use vnic_abi::cqe::{Arm, CQ_ARM_OFFSET, WcOpcode};

use super::device::{CompletionRing, WorkRing, completion};
use super::kernel::Kernel;
use super::{Rig, Wish};
use crate::cq::req_notify_cq;
use crate::ffi::*;
use crate::poll::poll_cq;
use crate::post::post_send;

#[test]
fn an_event_is_asked_for() {
    let rig = Rig::new(Wish::default());
    let memory = rig.kernel.memory(Kernel::object(0));
    for (solicited, arm) in [(1, Arm::Solicited), (0, Arm::Any)] {
        // SAFETY: the rig's own queue.
        assert_eq!(unsafe { req_notify_cq(rig.cq, solicited) }, 0);
        let word = memory.word32(CQ_ARM_OFFSET as usize);
        assert_eq!(word.swap(0, Ordering::SeqCst), arm.0);
    }
}

/// A pointer that threads of a test share; verbs may be called from every thread.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: the operations that it is used for take their own locks.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    fn get(self) -> *mut T {
        self.0
    }
}

/// Two threads post, two poll, and the device answers: every request completes once.
#[test]
fn threads_share_a_queue_pair() {
    const EACH: u64 = 5000;
    let rig = Rig::new(Wish::default());
    let sq = rig.kernel.memory(Kernel::object(1));
    let completions = rig.kernel.memory(Kernel::object(0));
    let qpn = rig.qpn();
    let (qp, cq) = (Shared(rig.qp), Shared(rig.cq));
    let taken = std::sync::atomic::AtomicU64::new(0);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sq = WorkRing::send(&sq, 4, 64);
            let mut cq = CompletionRing::new(&completions, 8);
            while u64::from(sq.count) < 2 * EACH {
                match sq.take_send() {
                    Some((wqe, _)) => {
                        while !cq.has_room() {
                            std::thread::yield_now();
                        }
                        cq.put(completion(qpn, WcOpcode::Send, wqe.wr_id.get(), sq.count));
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
        for thread in 0..2 {
            scope.spawn(move || {
                for i in 0..EACH {
                    let wr_id = thread * EACH + i;
                    let mut wr = ibv_send_wr { wr_id, opcode: IBV_WR_SEND, ..Default::default() };
                    let mut bad = core::ptr::null_mut();
                    // SAFETY: one valid request, on a queue pair that outlives the thread.
                    while unsafe { post_send(qp.get(), &mut wr, &mut bad) } == libc::ENOMEM {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let taken = &taken;
        let pollers = [(); 2].map(|()| {
            scope.spawn(move || {
                let mut seen = Vec::new();
                while taken.load(Ordering::Relaxed) < 2 * EACH {
                    let mut wc = [ibv_wc::default(), ibv_wc::default(), ibv_wc::default()];
                    // SAFETY: room for three, on a queue that outlives the thread.
                    let n = unsafe { poll_cq(cq.get(), 3, wc.as_mut_ptr()) };
                    if n == 0 {
                        std::thread::yield_now();
                    }
                    taken.fetch_add(n as u64, Ordering::Relaxed);
                    seen.extend(wc[..n as usize].iter().map(|wc| wc.wr_id));
                }
                seen
            })
        });
        pollers.map(|thread| thread.join().unwrap()).concat()
    });
    let mut seen = seen;
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..2 * EACH));
}
