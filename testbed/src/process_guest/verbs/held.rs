// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queues in the hands of one thread: the data path as a program has it, for those who measure it.
//!
//! [`Qp::post_send`] and [`Cq::poll`] take locks, look queue pairs up and copy requests, which is
//! convenient and costs more than the device does. Here a thread takes the locks once and then calls
//! what the provider calls, and nothing else.

use std::sync::MutexGuard;

use vnic_abi::wqe::{Opcode, WqeFlags};
use vnic_verbs::{CompletionQueue, DoorbellIndex, PostError, RecvQueue, SendQueue};

use super::{Cq, Qp};
use crate::process_guest::driver::KickFd;

/// Both queues of a queue pair, held by one thread. Completions are its own to take and to pass on
/// to `advance` of the queue that they belong to.
pub struct HeldQp<'a> {
    /// The send queue.
    pub sq: MutexGuard<'a, SendQueue>,
    /// The receive queue.
    pub rq: MutexGuard<'a, RecvQueue>,
    bell: &'a vnic_verbs::Doorbell<KickFd>,
    index: DoorbellIndex,
}

impl Qp {
    /// Takes the queues for as long as the result lives. Whoever posts to this queue pair, or polls a
    /// completion queue with completions of it, waits until then.
    pub fn hold(&self) -> HeldQp<'_> {
        let rings = &self.rings;
        HeldQp { sq: rings.sq(), rq: rings.rq(), bell: &self.doorbell, index: self.index }
    }
}

impl Cq {
    /// Takes the queue for as long as the result lives. Whoever polls it, or destroys a queue pair of
    /// it, waits until then.
    pub fn hold(&self) -> MutexGuard<'_, CompletionQueue> {
        self.queue()
    }
}

/// A request that moves bytes: what a send element is made of.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Operation.
    pub opcode: Opcode,
    /// Remote address and key; ignored by SEND.
    pub remote: (u64, u32),
    /// The bytes.
    pub payload: Payload<'a>,
    /// What an atomic adds.
    pub add: u64,
    /// Returned in the completion.
    pub wr_id: u64,
}

/// Where the bytes of a request are.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// In the request itself.
    Inline(&'a [u8]),
    /// In memory: address, length and local key.
    Memory(u64, u32, u32),
}

impl HeldQp<'_> {
    /// Writes a signalled request behind those that are staged; [`Self::ring`] is to follow.
    ///
    /// # Errors
    /// If the queue is full or the request does not fit an element.
    #[inline(always)]
    pub fn stage(&mut self, request: &Request<'_>) -> Result<(), PostError> {
        let mut wqe = self.sq.begin(request.opcode, WqeFlags::SIGNALED, request.wr_id)?;
        wqe.remote(request.remote.0, request.remote.1);
        if request.opcode == Opcode::AtomicFetchAdd {
            wqe.operands(request.add, 0);
        }
        match request.payload {
            Payload::Inline(bytes) => wqe.inline(bytes)?,
            Payload::Memory(addr, length, lkey) => wqe.sge(addr, length, lkey)?,
        }
        wqe.stage();
        Ok(())
    }

    /// Shows the device what is staged.
    #[inline(always)]
    pub fn ring(&mut self) {
        self.sq.publish();
        self.bell.ring(self.index);
    }

    /// Rings for receive elements, if the device wants that.
    #[inline(always)]
    pub fn ring_for_receives(&self) {
        if self.rq.wants_doorbell() {
            self.bell.ring(self.index);
        }
    }
}
