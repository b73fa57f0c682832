// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages of every kind between two arenas, without a pause but for those that let workers sleep.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vnic_abi::cqe::WcStatus;
use vnic_testbed::process_guest::verbs::{Endpoint, Mr, Qp, SendWr, connect};

use crate::arena::{Arena, SEGMENT, SEGMENTS};
use crate::frames::Violation;
use crate::random::Random;

/// Requests on their way per queue pair, at most.
const DEPTH: u64 = 48;
/// Every so many requests one completes visibly.
const SIGNALED: u64 = 8;
/// Receive elements kept posted.
const RECEIVES: u32 = 48;
/// Rounds between two pauses.
const PAUSE: u64 = 5000;

/// Operations of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Write,
    Read,
    Send,
    Atomic,
}

/// What a run of traffic did, by operation as in [`FLOWS`].
#[derive(Debug, Default)]
pub struct Done {
    pub requests: [AtomicU64; FLOWS.len()],
    pub pauses: AtomicU64,
}

/// One queue pair for each: the operation, and whether the first guest requests it. Messages that
/// need no key of the peer are the shortest way from entering a burst to the first translation.
pub const FLOWS: [(Op, bool); 6] = [
    (Op::Write, true),
    (Op::Read, true),
    (Op::Send, true),
    (Op::Atomic, true),
    (Op::Write, false),
    (Op::Send, false),
];

/// One end: its guest and the key for its arena.
pub struct End<'a> {
    pub endpoint: &'a Endpoint,
    pub mr: &'a Mr,
}

struct Flow {
    op: Op,
    here: Qp,
    there: Qp,
    lkey: u32,
    /// Key of the far arena, for the requester and for the receiver itself.
    rkey: u32,
    posted: u64,
    completed: u64,
}

/// Keeps every flow going until `stop`.
pub fn run(ends: [&End<'_>; 2], stop: impl Fn() -> bool, done: &Done) -> Result<(), Violation> {
    let mut flows: Vec<Flow> =
        FLOWS.iter().map(|&(op, forth)| Flow::new(op, ends, forth)).collect();
    let mut random = Random::new(7);
    let mut rounds = 0;
    while !stop() {
        let mut idle = true;
        for (flow, count) in flows.iter_mut().zip(&done.requests) {
            idle &= !flow.poll(count)?;
            idle &= !flow.post(&mut random);
        }
        rounds += 1;
        if rounds % PAUSE == 0 {
            // Long enough for workers to go to sleep, and to miss more than the ring holds.
            for (flow, count) in flows.iter_mut().zip(&done.requests) {
                flow.drain(count)?;
            }
            std::thread::sleep(Duration::from_millis(1));
            // Relaxed: a count.
            done.pauses.fetch_add(1, Ordering::Relaxed);
        } else if idle {
            std::thread::yield_now();
        }
    }
    flows.iter_mut().zip(&done.requests).try_for_each(|(flow, count)| flow.drain(count))
}

/// A piece of an arena that one message can name.
fn piece(random: &mut Random, op: Op) -> (u64, u64) {
    let (offset, len) = match (op, random.below(8)) {
        (Op::Atomic, _) => (random.below(SEGMENT / 8) * 8, 8),
        (_, 0) => (0, SEGMENT),
        (_, 1..4) => {
            let len = 64 + random.below(SEGMENT / 2);
            (random.below(SEGMENT - len), len)
        }
        _ => {
            let len = 64 + random.below(4096);
            (random.below(SEGMENT - len), len)
        }
    };
    (Arena::address(random.below(SEGMENTS) * SEGMENT) + offset, len)
}

impl Flow {
    fn new(op: Op, [a, b]: [&End<'_>; 2], forth: bool) -> Self {
        let (from, to) = if forth { (a, b) } else { (b, a) };
        let (here, there) = (from.endpoint.qp(), to.endpoint.qp());
        connect(&here, &there);
        let (lkey, rkey) = (from.mr.lkey(), to.mr.rkey());
        Self { op, here, there, lkey, rkey, posted: 0, completed: 0 }
    }

    /// Takes completions; `true` if there were any.
    fn poll(&mut self, count: &AtomicU64) -> Result<bool, Violation> {
        let mut any = false;
        while let Some(done) = self.here.send_cq.poll() {
            if done.status != WcStatus::Success {
                return Err(Violation(format!("{:?} failed: {done:?}", self.op)));
            }
            any = true;
            self.completed = done.wr_id;
            // Relaxed: a count.
            count.store(done.wr_id, Ordering::Relaxed);
        }
        while let Some(done) = self.there.recv_cq.poll() {
            if done.status != WcStatus::Success {
                return Err(Violation(format!("a receive failed: {done:?}")));
            }
            any = true;
        }
        Ok(any)
    }

    /// Fills the queues; `true` if there was room.
    fn post(&mut self, random: &mut Random) -> bool {
        if self.op == Op::Send {
            while self.there.recv_room() > 64 - RECEIVES {
                // Room for whatever comes.
                let va = Arena::address(random.below(SEGMENTS) * SEGMENT);
                self.there.post_recv(0, &[sge(self.rkey, va, SEGMENT)]);
            }
        }
        let room = self.posted - self.completed < DEPTH;
        while self.posted - self.completed < DEPTH {
            self.posted += 1;
            let wr = self.request(random).id(self.posted);
            let signaled = self.posted.is_multiple_of(SIGNALED);
            self.here.post_send(&if signaled { wr } else { wr.unsignaled() });
        }
        room
    }

    fn request(&self, random: &mut Random) -> SendWr {
        let (local, len) = piece(random, self.op);
        let sges = [sge(self.lkey, local, len)];
        // Far pieces are as long as near ones: begin where that fits.
        let offset = random.below(SEGMENT - len + 1);
        let remote = Arena::address(random.below(SEGMENTS) * SEGMENT) + offset;
        match self.op {
            Op::Send => SendWr::send(&sges),
            Op::Write => SendWr::write(&sges, remote, self.rkey),
            Op::Read => SendWr::read(&sges, remote, self.rkey),
            Op::Atomic if random.below(2) == 0 => {
                SendWr::fetch_add(&sges, remote & !7, self.rkey, 1)
            }
            Op::Atomic => SendWr::compare_swap(
                &sges,
                remote & !7,
                self.rkey,
                random.harmless(),
                random.harmless(),
            ),
        }
    }

    /// Waits for everything that was posted.
    fn drain(&mut self, count: &AtomicU64) -> Result<(), Violation> {
        // Requests after the last visible one complete with it.
        while self.posted - self.completed >= SIGNALED {
            if !self.poll(count)? {
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

fn sge(lkey: u32, addr: u64, len: u64) -> vnic_abi::wqe::Sge {
    vnic_abi::wqe::Sge { addr: addr.into(), length: (len as u32).into(), lkey: lkey.into() }
}
