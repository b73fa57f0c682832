// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random sequences of posts, device steps and polls against a plain queue of what should happen.

mod device;

use std::collections::VecDeque;

use device::{CompletionRing, Memory, WorkRing, completion};
use proptest::prelude::*;
use vnic_abi::cqe::WcOpcode;
use vnic_abi::doorbell::QP_SQ_OFFSET;
use vnic_abi::wqe::{Opcode, Sge, WqeFlags};
use vnic_verbs::{CompletionQueue, PostError, RecvQueue, SendLimits, SendQueue};
use zerocopy::{FromBytes, IntoBytes};

const QPN: u32 = 0x1234;

#[derive(Debug, Clone)]
enum Payload {
    Sges(Vec<(u64, u32, u32)>),
    Inline(Vec<Vec<u8>>),
}

#[derive(Debug, Clone)]
enum Step {
    /// Posts one element.
    Post { signaled: bool, payload: Payload },
    /// Stages some elements, then publishes or discards them all.
    Batch { len: usize, publish: bool },
    /// Begins an element, suspends it, goes on and posts it, or forgets it.
    Suspend { resume: bool },
    /// Posts a receive element.
    Recv(Vec<(u64, u32, u32)>),
    /// The device takes up to this many send elements.
    Send(usize),
    /// The device uses up to this many receive elements.
    Deliver(usize),
    /// Polls with room for this many.
    Poll(usize),
}

fn sges(max: usize) -> impl Strategy<Value = Vec<(u64, u32, u32)>> {
    prop::collection::vec(any::<(u64, u32, u32)>(), 0..=max)
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        sges(4).prop_map(Payload::Sges),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4)
            .prop_map(Payload::Inline),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), payload())
            .prop_map(|(signaled, payload)| Step::Post { signaled, payload }),
        1 => (1..6usize, any::<bool>()).prop_map(|(len, publish)| Step::Batch { len, publish }),
        1 => any::<bool>().prop_map(|resume| Step::Suspend { resume }),
        2 => sges(4).prop_map(Step::Recv),
        3 => (1..6usize).prop_map(Step::Send),
        2 => (1..6usize).prop_map(Step::Deliver),
        3 => (1..6usize).prop_map(Step::Poll),
    ]
}

/// What the device must find for a posted element.
struct Expected {
    wr_id: u64,
    signaled: bool,
    payload: Payload,
}

fn bytes_of(sges: &[(u64, u32, u32)]) -> Vec<u8> {
    sges.iter()
        .flat_map(|&(addr, length, lkey)| {
            let sge = Sge { addr: addr.into(), length: length.into(), lkey: lkey.into() };
            sge.as_bytes().to_vec()
        })
        .collect()
}

struct World<'a> {
    depth: u32,
    stride: u32,
    limits: SendLimits,
    sq: SendQueue,
    rq: RecvQueue,
    cq: CompletionQueue,
    device_sq: WorkRing<'a>,
    device_rq: WorkRing<'a>,
    device_cq: CompletionRing<'a>,
    /// Posted, not yet taken by the device.
    sends: VecDeque<Expected>,
    recvs: VecDeque<(u64, Vec<u8>)>,
    /// Completed, not yet polled: work request, receive, running count.
    done: VecDeque<(u64, bool, u32)>,
    /// Elements that a completion has not freed yet.
    sends_in_use: u32,
    recvs_in_use: u32,
    next_id: u64,
}

impl World<'_> {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether the element fits, and what it becomes.
    fn post(&mut self, signaled: bool, payload: &Payload) {
        let wr_id = self.id();
        let flags = if signaled { WqeFlags::SIGNALED } else { WqeFlags::empty() };
        let full = self.sends_in_use == self.depth;
        let Ok(mut wqe) = self.sq.begin(Opcode::Send, flags, wr_id) else {
            assert!(full, "refused with room");
            return;
        };
        assert!(!full, "took more than the ring holds");
        let outcome = match payload {
            Payload::Sges(list) => list.iter().try_for_each(|&(a, n, k)| wqe.sge(a, n, k)),
            Payload::Inline(pieces) => pieces.iter().try_for_each(|piece| wqe.inline(piece)),
        };
        let room = self.stride - 32;
        let fits = match payload {
            Payload::Sges(list) => list.len() as u32 <= self.limits.max_sge.min(room / 16),
            Payload::Inline(pieces) => {
                let total = pieces.iter().map(Vec::len).sum::<usize>();
                total as u32 <= self.limits.max_inline.min(room)
            }
        };
        assert_eq!(outcome.is_ok(), fits, "{outcome:?}");
        if fits {
            wqe.post();
            self.sends.push_back(Expected { wr_id, signaled, payload: payload.clone() });
            self.sends_in_use += 1;
        }
    }

    fn batch(&mut self, len: usize, publish: bool) {
        let mut staged = Vec::new();
        for _ in 0..len {
            let wr_id = self.id();
            match self.sq.begin(Opcode::RdmaRead, WqeFlags::SIGNALED, wr_id) {
                Ok(wqe) => wqe.stage(),
                Err(error) => {
                    assert_eq!(error, PostError::Full);
                    assert_eq!(self.sends_in_use + staged.len() as u32, self.depth);
                    break;
                }
            }
            staged.push(wr_id);
        }
        if self.sends.is_empty() {
            assert!(self.device_sq.take().is_none(), "the device saw a staged element");
        }
        if publish {
            assert_eq!(self.sq.publish() as usize, staged.len());
            self.sends_in_use += staged.len() as u32;
            let payload = Payload::Sges(Vec::new());
            self.sends.extend(staged.into_iter().map(|wr_id| Expected {
                wr_id,
                signaled: true,
                payload: payload.clone(),
            }));
        } else {
            self.sq.discard();
        }
    }

    fn suspend(&mut self, resume: bool) {
        let wr_id = self.id();
        let Ok(mut wqe) = self.sq.begin(Opcode::SendWithImm, WqeFlags::SIGNALED, wr_id) else {
            return;
        };
        wqe.inline(b"ab").unwrap();
        wqe.suspend();
        if resume {
            let mut wqe = self.sq.resume().unwrap();
            wqe.inline(b"c").unwrap();
            wqe.post();
            let payload = Payload::Inline(vec![b"abc".to_vec()]);
            self.sends.push_back(Expected { wr_id, signaled: true, payload });
            self.sends_in_use += 1;
        }
    }

    fn recv(&mut self, list: &[(u64, u32, u32)]) {
        let wr_id = self.id();
        let bytes = bytes_of(list);
        let entries = list.iter().map(|&(addr, length, lkey)| Sge {
            addr: addr.into(),
            length: length.into(),
            lkey: lkey.into(),
        });
        let outcome = self.rq.post(wr_id, entries);
        if self.recvs_in_use == self.depth {
            assert_eq!(outcome, Err(PostError::Full));
        } else if list.len() > 3 {
            assert_eq!(outcome, Err(PostError::TooManySge));
        } else {
            assert_eq!(outcome, Ok(()));
            self.recvs.push_back((wr_id, bytes));
            self.recvs_in_use += 1;
        }
    }

    fn device_send(&mut self, max: usize) {
        for _ in 0..max {
            if !self.device_cq.has_room() {
                return;
            }
            let Some((wqe, payload)) = self.device_sq.take_send() else {
                assert!(self.sends.is_empty(), "a posted element is not visible");
                return;
            };
            let expected = self.sends.pop_front().expect("an element that nobody posted");
            assert_eq!(wqe.wr_id.get(), expected.wr_id);
            assert_eq!(wqe.reserved, 0);
            let flags = WqeFlags::from_bits_truncate(wqe.flags);
            assert_eq!(flags.contains(WqeFlags::SIGNALED), expected.signaled);
            match &expected.payload {
                Payload::Sges(list) => {
                    assert_eq!((usize::from(wqe.num_sge), wqe.length.get()), (list.len(), 0));
                    assert!(!flags.contains(WqeFlags::INLINE));
                    assert!(payload.starts_with(&bytes_of(list)));
                }
                Payload::Inline(pieces) => {
                    let whole = pieces.concat();
                    assert_eq!((wqe.num_sge, wqe.length.get()), (0, whole.len() as u32));
                    assert!(flags.contains(WqeFlags::INLINE));
                    assert!(payload.starts_with(&whole));
                }
            }
            if expected.signaled {
                let count = self.device_sq.count;
                self.device_cq.put(completion(QPN, WcOpcode::Send, expected.wr_id, count));
                self.done.push_back((expected.wr_id, false, count));
            }
        }
    }

    fn device_deliver(&mut self, max: usize) {
        for _ in 0..max {
            if !self.device_cq.has_room() {
                return;
            }
            let Some((wqe, payload)) = self.device_rq.take_recv() else {
                assert!(self.recvs.is_empty(), "a posted element is not visible");
                return;
            };
            let (wr_id, bytes) = self.recvs.pop_front().expect("an element that nobody posted");
            assert_eq!(wqe.wr_id.get(), wr_id);
            assert_eq!(usize::from(wqe.num_sge) * 16, bytes.len());
            assert!(payload.starts_with(&bytes));
            let count = self.device_rq.count;
            self.device_cq.put(completion(QPN, WcOpcode::Recv, wr_id, count));
            self.done.push_back((wr_id, true, count));
        }
    }

    fn poll(&mut self, max: usize) {
        let mut out = vec![Default::default(); max];
        let n = self.cq.poll(&mut out);
        assert_eq!(n, max.min(self.done.len()));
        for (got, (wr_id, recv, count)) in out[..n].iter().zip(self.done.drain(..n)) {
            assert_eq!((got.wr_id, got.is_recv(), got.wqe_count), (wr_id, recv, count));
            assert_eq!(got.qpn, QPN);
            if recv {
                self.rq.advance(count);
                self.recvs_in_use = self.rq.posted().wrapping_sub(count);
            } else {
                self.sq.advance(count);
                self.sends_in_use = self.sq.posted().wrapping_sub(count);
            }
        }
        assert_eq!(self.sq.free(), self.depth - self.sends_in_use);
        assert_eq!(self.rq.free(), self.depth - self.recvs_in_use);
    }
}

#[allow(unsafe_code, reason = "raw memory shared with the device")]
fn run(depth: u32, stride: u32, cq_depth: u32, steps: &[Step]) {
    let rq_offset = (QP_SQ_OFFSET + depth * stride).next_multiple_of(4096) as usize;
    let qp = Memory::new(rq_offset + (depth * 64) as usize);
    let completions = Memory::new(4096 + (cq_depth * 32) as usize);
    let limits = SendLimits { max_sge: 3, max_inline: 128 };
    // SAFETY: the memory outlives the queues, has the sizes given, and the fake device is the only
    // other user.
    let (sq, rq, cq) = unsafe {
        (
            SendQueue::new(qp.at(QP_SQ_OFFSET as usize), depth, stride, limits).unwrap(),
            RecvQueue::new(qp.at(0), qp.at(rq_offset), depth, 64, 3).unwrap(),
            CompletionQueue::new(completions.at(0), cq_depth).unwrap(),
        )
    };
    let mut world = World {
        depth,
        stride,
        limits,
        sq,
        rq,
        cq,
        device_sq: WorkRing::send(&qp, depth, stride),
        device_rq: WorkRing::recv(&qp, rq_offset, depth, 64),
        device_cq: CompletionRing::new(&completions, cq_depth),
        sends: VecDeque::new(),
        recvs: VecDeque::new(),
        done: VecDeque::new(),
        sends_in_use: 0,
        recvs_in_use: 0,
        next_id: 0,
    };
    for step in steps {
        match step {
            Step::Post { signaled, payload } => world.post(*signaled, payload),
            Step::Batch { len, publish } => world.batch(*len, *publish),
            Step::Suspend { resume } => world.suspend(*resume),
            Step::Recv(list) => world.recv(list),
            Step::Send(max) => world.device_send(*max),
            Step::Deliver(max) => world.device_deliver(*max),
            Step::Poll(max) => world.poll(*max),
        }
    }
}

proptest! {
    #[test]
    fn every_element_arrives_once_and_in_order(
        depth_log in 0..4u32,
        stride_log in 6..10u32,
        cq_log in 0..5u32,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        run(1 << depth_log, 1 << stride_log, 1 << cq_log, &steps);
    }
}

/// The layout of an atomic element, with the operands before the gather entry.
#[test]
#[allow(unsafe_code, reason = "raw memory shared with the device")]
fn an_atomic_carries_its_operands() {
    let qp = Memory::new(8192);
    let limits = SendLimits { max_sge: 4, max_inline: 64 };
    // SAFETY: one page behind the control page is 64 elements of 64 bytes.
    let mut sq = unsafe { SendQueue::new(qp.at(4096), 64, 64, limits) }.unwrap();
    let mut wqe = sq.begin(Opcode::AtomicCmpSwap, WqeFlags::FENCE, 9).unwrap();
    wqe.remote(0x1122_3344_5566_7788, 0xaabb);
    wqe.operands(5, 6);
    assert_eq!(wqe.inline(b"x"), Err(PostError::InlineNotAllowed));
    wqe.sge(0x1000, 8, 77).unwrap();
    assert_eq!(wqe.sge(0x1000, 8, 77), Err(PostError::TooManySge));
    wqe.post();

    let bytes = WorkRing::send(&qp, 64, 64).take().unwrap();
    let (wqe, payload) = vnic_abi::wqe::AtomicWqe::read_from_prefix(&bytes).unwrap();
    assert_eq!((wqe.compare_add.get(), wqe.swap.get()), (5, 6));
    assert_eq!((wqe.base.remote_addr.get(), wqe.base.rkey.get()), (0x1122_3344_5566_7788, 0xaabb));
    assert_eq!(wqe.base.num_sge, 1);
    assert_eq!(payload, bytes_of(&[(0x1000, 8, 77)]));
}
