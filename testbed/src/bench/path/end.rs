// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One end of a connection, as a program uses it: queue pair, completion queues, and memory that the
//! peer may use.

use std::sync::{
    Arc, MutexGuard,
    atomic::{AtomicU8, AtomicU64},
};

use vnic_abi::{cqe::WcStatus, wqe::Opcode, wqe::Sge};
use vnic_verbs::{Completion, CompletionQueue};

use super::spin;
use crate::{
    error::{Error, Result},
    process_guest::{
        Fault, Layout, UserBuffer,
        verbs::{
            ALL_ACCESS, ConnectOptions, Cq, Endpoint, HeldQp, Mr, Payload, Qp, QpOptions, Request,
            connect_with,
        },
    },
};

/// READs and atomics that a queue pair may have under way.
const READS: u8 = 16;

/// What a queue pair of a bench looks like: elements of one cache line, with room for one gather
/// entry or 32 bytes.
pub const SHAPE: QpOptions = QpOptions {
    sq_depth: 128,
    rq_depth: 128,
    max_send_sge: 1,
    max_recv_sge: 1,
    max_inline: 32,
    sig_all: false,
};

/// Requests under way from which on completions are taken.
const BEHIND: u32 = 16;

/// Bytes of a buffer that is there because an end has one.
const SMALL: u64 = 4096;

/// Memory of an end.
struct Memory {
    source: u64,
    target: u64,
    layout: Layout,
}

/// One end of a connection.
pub struct End {
    qp: Qp,
    send_cq: Arc<Cq>,
    recv_cq: Arc<Cq>,
    /// What requests are made of, and what answers go to.
    pub source: (UserBuffer, Mr),
    /// What the peer writes to and reads from.
    pub target: (UserBuffer, Mr),
}

impl End {
    /// Connected ends in two guests, with `bytes` of memory for each purpose.
    ///
    /// # Panics
    /// If a device refuses it.
    pub fn pair(a: &Endpoint, b: &Endpoint, shape: QpOptions, bytes: u64) -> (Self, Self) {
        let memory = || Memory { source: bytes, target: bytes, layout: Layout::Scattered };
        Self::connected(Self::new(a, shape, memory()), Self::new(b, shape, memory()))
    }

    /// As [`Self::pair`], but only the source of the first and the target of the second have
    /// `bytes`, and their pages are as `layout` says.
    ///
    /// # Panics
    /// If a device refuses it.
    pub fn one_way(a: &Endpoint, b: &Endpoint, bytes: u64, layout: Layout) -> (Self, Self) {
        let (source, target) = (bytes, bytes);
        let a = Self::new(a, SHAPE, Memory { source, target: SMALL, layout });
        let b = Self::new(b, SHAPE, Memory { source: SMALL, target, layout });
        // Pages that were never written to may all be the same one of zeroes.
        a.source.0.fill(1);
        b.target.0.fill(2);
        Self::connected(a, b)
    }

    fn new(guest: &Endpoint, shape: QpOptions, memory: Memory) -> Self {
        let (send_cq, recv_cq) = (guest.cq(shape.sq_depth), guest.cq(shape.rq_depth));
        let qp = Qp::new(&guest.pd, &send_cq, &recv_cq, guest.gid, shape);
        let region = |bytes| {
            let buffer = guest.space().map(bytes, memory.layout, Fault::Present, true);
            let mr = Mr::of(&guest.pd, &buffer, ALL_ACCESS);
            (buffer, mr)
        };
        let (source, target) = (region(memory.source), region(memory.target));
        Self { qp, send_cq, recv_cq, source, target }
    }

    fn connected(a: Self, b: Self) -> (Self, Self) {
        let options = ConnectOptions { max_rd_atomic: READS, ..ConnectOptions::default() };
        connect_with(&a.qp, &b.qp, &options);
        (a, b)
    }

    /// The address and key under which the peer reaches the target.
    pub fn remote(&self) -> (u64, u32) {
        (self.target.0.addr(), self.target.1.rkey())
    }

    /// The first `length` bytes of the source, as payload.
    pub fn payload(&self, length: u32) -> Payload<'static> {
        Payload::Memory(self.source.0.addr(), length, self.source.1.lkey())
    }

    /// A scatter entry for the first `length` bytes of the target.
    pub fn receive(&self, length: u32) -> Sge {
        self.target.1.sge(self.target.0.addr(), length)
    }

    /// The word at the beginning of the target.
    pub fn word(&self) -> &AtomicU64 {
        self.target.0.pages().word(0)
    }

    /// The byte at `offset` of the target.
    pub fn byte(&self, offset: u64) -> &AtomicU8 {
        self.target.0.pages().byte(offset)
    }

    /// The byte at `offset` of the source.
    pub fn source_byte(&self, offset: u64) -> &AtomicU8 {
        self.source.0.pages().byte(offset)
    }

    /// Takes the queues for this thread.
    pub fn hold(&self) -> Held<'_> {
        Held { qp: self.qp.hold(), sends: self.send_cq.hold(), receives: self.recv_cq.hold() }
    }
}

/// One end in the hands of one thread.
pub struct Held<'a> {
    /// The queue pair.
    pub qp: HeldQp<'a>,
    /// Completions of sends.
    pub sends: MutexGuard<'a, CompletionQueue>,
    /// Completions of receives.
    pub receives: MutexGuard<'a, CompletionQueue>,
}

impl Held<'_> {
    /// Posts one request, and then takes completions of earlier ones, so that the queue never fills
    /// up: a few at a time, while the device is at work, and not the newest.
    ///
    /// # Errors
    /// If it cannot be posted, or an earlier one failed.
    #[inline(always)]
    pub fn post(&mut self, request: &Request<'_>) -> Result<()> {
        self.qp.stage(request).map_err(refused)?;
        self.qp.ring();
        if self.qp.sq.depth() - self.qp.sq.free() > BEHIND {
            for _ in 0..2 {
                let Some(done) = self.sends.take() else { break };
                self.qp.sq.advance(done.wqe_count);
                succeeded(&done)?;
            }
            self.sends.publish();
        }
        Ok(())
    }

    /// Takes the completions of sends that are there; returns how many.
    ///
    /// # Errors
    /// If a request failed.
    #[inline(always)]
    pub fn reap(&mut self) -> Result<u32> {
        let mut taken = 0;
        while let Some(done) = self.sends.take() {
            succeeded(&done)?;
            self.qp.sq.advance(done.wqe_count);
            taken += 1;
        }
        self.sends.publish();
        Ok(taken)
    }

    /// Waits for the completion of the one send that is under way.
    ///
    /// # Errors
    /// If it does not come, or tells of a failure.
    #[inline(always)]
    pub fn completion(&mut self) -> Result<()> {
        let done = spin::until(|| self.sends.take())?;
        self.qp.sq.advance(done.wqe_count);
        self.sends.publish();
        succeeded(&done)
    }

    /// Waits until everything that was posted has completed.
    ///
    /// # Errors
    /// If it does not, or a request failed.
    pub fn drain(&mut self) -> Result<()> {
        while self.qp.sq.free() < self.qp.sq.depth() {
            self.completion()?;
        }
        Ok(())
    }

    /// Does `count` times what `request` says, with `window` of them under way.
    ///
    /// # Errors
    /// If a request fails, or does not complete.
    pub fn stream(&mut self, request: &Request<'_>, count: u32, window: u32) -> Result<()> {
        for posted in 0..count {
            if posted >= window {
                self.completion()?;
            }
            self.qp.stage(request).map_err(refused)?;
            self.qp.ring();
        }
        self.drain()
    }

    /// Posts a receive element.
    ///
    /// # Errors
    /// If the queue is full.
    #[inline(always)]
    pub fn receive(&mut self, place: Sge) -> Result<()> {
        self.qp.rq.post(0, [place]).map_err(refused)?;
        self.qp.ring_for_receives();
        Ok(())
    }

    /// Waits for a message and gives its element back.
    ///
    /// # Errors
    /// If none comes, or receiving it failed.
    #[inline(always)]
    pub fn message(&mut self, place: Sge) -> Result<()> {
        let done = spin::until(|| self.receives.take())?;
        self.receives.publish();
        self.qp.rq.advance(done.wqe_count);
        succeeded(&done)?;
        self.receive(place)
    }
}

/// Whether a completion tells of success.
///
/// # Errors
/// If it does not.
#[inline(always)]
pub fn succeeded(done: &Completion) -> Result<()> {
    if done.status == WcStatus::Success { Ok(()) } else { Err(failed(done)) }
}

#[cold]
fn failed(done: &Completion) -> Error {
    Error::unfit(format!("a request failed: {done:?}"), "Look at the daemon's log")
}

/// Why a request could not be posted.
#[cold]
pub fn refused(error: vnic_verbs::PostError) -> Error {
    Error::unfit(format!("a request cannot be posted: {error}"), "This is a mistake of the bench")
}

/// A WRITE of `payload` to `remote`.
pub fn write(payload: Payload<'_>, remote: (u64, u32)) -> Request<'_> {
    Request { opcode: Opcode::RdmaWrite, remote, payload, add: 0, wr_id: 0 }
}

/// A READ from `remote` to `payload`.
pub fn read(payload: Payload<'_>, remote: (u64, u32)) -> Request<'_> {
    Request { opcode: Opcode::RdmaRead, ..write(payload, remote) }
}

/// A SEND of `payload`.
pub fn send(payload: Payload<'_>) -> Request<'_> {
    Request { opcode: Opcode::Send, ..write(payload, (0, 0)) }
}

/// A FETCH_ADD of 1 at `remote`; what was there goes to `payload`.
pub fn fetch_add(payload: Payload<'_>, remote: (u64, u32)) -> Request<'_> {
    Request { opcode: Opcode::AtomicFetchAdd, add: 1, ..write(payload, remote) }
}
