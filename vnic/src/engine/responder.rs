// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The receiving half of a queue pair: checks what a peer asks for, and where its bytes go.
//!
//! Each function decides one thing and returns the next step; none moves a byte.

use crate::engine::core::Later;
use crate::engine::request::Remote;
use crate::fabric::relay::arrivals::Arrivals;
use crate::object::mr::KeyCache;
use crate::object::qp::Qp;
use crate::object::qp::attr::rnr_delay;
use crate::object::space::Space;
use crate::ring::memory::RingMemory;
use crate::ring::rq::{RecvRequest, SgeList};
use crate::ring::sq::{Element, WorkRing};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vnic_abi::cqe::{Cqe, CqeFlags, WcOpcode, WcStatus};
use vnic_abi::ctrl::{AccessFlags, QpAttr, QpState};
use vnic_abi::doorbell::QP_RQ_WANTS_DOORBELL;
use vnic_abi::event::EventKind;
use vnic_abi::wqe::{RECV_WQE_PAYLOAD, RecvWqe, Sge};
use vnic_iommu::addr::Gva;
use vnic_iommu::quiesce::full_fence;

/// Words of the fixed part of a receive element.
const RECV_HEAD: usize = RECV_WQE_PAYLOAD as usize / 8;

/// Why the responder does not carry a request out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nak {
    /// No receive element is posted; try again after this time.
    Rnr(Duration),
    /// The request is one that this queue pair does not take.
    InvalidRequest,
    /// The key does not allow it.
    RemoteAccess,
    /// The responder failed for a reason of its own.
    RemoteOperation,
}

impl Nak {
    /// What the requester's completion says, once trying again is out of the question.
    pub const fn status(self) -> WcStatus {
        match self {
            Self::Rnr(_) => WcStatus::RnrRetryExcErr,
            Self::InvalidRequest => WcStatus::RemInvReqErr,
            Self::RemoteAccess => WcStatus::RemAccessErr,
            Self::RemoteOperation => WcStatus::RemOpErr,
        }
    }
}

/// A receive element in use by the message that arrives.
#[derive(Debug, Clone, Copy)]
pub struct Receiving {
    /// From the driver.
    pub wr_id: u64,
    /// How many entries of the element say where the message goes.
    num_sge: u8,
}

/// Who sends what arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A queue pair of this device, by number.
    Local(u32),
    /// A queue pair of another daemon, to which [`Arrivals`] know the way.
    Wire,
}

/// A contiguous range of the responder's process.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Address space.
    pub space: &'a Space,
    /// First byte.
    pub start: Gva,
    /// End of the region that allows it.
    pub end: Gva,
}

/// The receiving half.
#[derive(Debug)]
pub struct Responder {
    ring: WorkRing,
    element: Element,
    /// The message that arrives.
    pub receiving: Option<Receiving>,
    /// Last region used.
    pub keys: KeyCache,
    access: AccessFlags,
    rnr_delay: Duration,
    /// The requester that waits for a receive element.
    waiter: Option<Sender>,
    /// How what arrives from another daemon stands.
    pub arrivals: Option<Box<Arrivals>>,
    /// What the driver was told last about its doorbell, so that a message in the usual case leaves
    /// the driver's cache line alone.
    wants: bool,
    established: bool,
}

impl Responder {
    /// In the RESET state.
    pub fn new(offset: usize, depth: u32, stride: u32) -> Self {
        Self {
            ring: WorkRing::of_receives(offset, depth, stride),
            element: Element::new(stride),
            receiving: None,
            keys: KeyCache::default(),
            access: AccessFlags::empty(),
            rnr_delay: Duration::ZERO,
            waiter: None,
            arrivals: None,
            wants: false,
            established: false,
        }
    }

    /// Back to the RESET state.
    pub fn reset(&mut self, memory: &RingMemory) {
        self.forget();
        self.wants = true;
        self.want_doorbell(memory, false);
        self.established = false;
    }

    /// Drops what refers to other objects.
    pub fn forget(&mut self) {
        self.ring.reset();
        self.receiving = None;
        self.keys.clear();
        self.waiter = None;
        self.arrivals = None;
    }

    /// Takes over attributes.
    pub fn configure(&mut self, attr: &QpAttr) {
        self.access = AccessFlags::from_bits_retain(attr.access.get());
        self.rnr_delay = rnr_delay(attr.min_rnr_timer);
    }

    fn want_doorbell(&mut self, memory: &RingMemory, want: bool) {
        if std::mem::replace(&mut self.wants, want) == want {
            return;
        }
        let word = memory.word32(QP_RQ_WANTS_DOORBELL as usize);
        // Relaxed: `take` issues the fence that matters.
        word.store(u32::from(want).to_le(), Ordering::Relaxed);
    }

    /// Has the driver ring for each new element, from now on.
    pub fn ask_for_doorbells(&mut self, memory: &RingMemory) {
        self.want_doorbell(memory, true);
    }

    /// Gives the element back that was taken last, and that nothing has come of.
    pub fn give_back(&mut self) {
        self.ring.go_back(1);
    }

    /// Elements of its queue.
    pub fn depth(&self) -> u32 {
        self.ring.depth()
    }

    /// Elements taken since the last reset, modulo 2^32.
    pub fn consumed(&self) -> u32 {
        self.ring.consumed()
    }

    /// Where a message goes that takes the element taken last, which has so many entries.
    pub fn scatter_of(&mut self, num_sge: u8) -> (SgeList<'_>, &mut KeyCache) {
        let list = RecvRequest::scatter(&self.element, num_sge);
        (list.unwrap_or(SgeList::EMPTY), &mut self.keys)
    }

    /// Takes the next receive element. If there is none, asks the driver for a doorbell.
    pub fn take(&mut self, memory: &RingMemory) -> Option<RecvRequest> {
        if self.ring.take(memory, &mut self.element) {
            return Some(RecvRequest::parse(&self.element));
        }
        self.want_doorbell(memory, true);
        // Full: pairs with the driver's fence between publishing an element and reading the word.
        // Either the driver rings, or the element is seen here.
        full_fence();
        let found = self.ring.take(memory, &mut self.element);
        found.then(|| RecvRequest::parse(&self.element))
    }

    /// Makes sure that a message from `sender` has a receive element.
    ///
    /// # Errors
    ///
    /// The [`Nak`] for the sender.
    pub fn begin_receive(
        &mut self,
        qp: &Arc<Qp>,
        sender: Sender,
        later: &mut Later,
    ) -> Result<(), Nak> {
        if self.receiving.is_some() {
            return Ok(());
        }
        let Some(request) = self.take(&qp.memory) else {
            self.waiter = Some(sender);
            // Relaxed: the fence that matters is in `wake_sender`, which the sender calls when it
            // has begun to wait.
            qp.sender_waits.store(true, Ordering::Relaxed);
            return Err(Nak::Rnr(self.rnr_delay));
        };
        self.want_doorbell(&qp.memory, false);
        self.waiter = None;
        let num_sge = request.num_sge.unwrap_or_default();
        self.receiving = Some(Receiving { wr_id: request.wr_id, num_sge });
        if request.num_sge.is_none() {
            self.fail_receive(qp, WcStatus::LocQpOpErr, later);
            return Err(Nak::RemoteOperation);
        }
        Ok(())
    }

    /// Where the message goes that arrives, and the keys to look that up with.
    #[inline]
    pub fn scatter(&mut self) -> (SgeList<'_>, &mut KeyCache) {
        self.scatter_of(self.receiving.map_or(0, |receiving| receiving.num_sge))
    }

    /// Tells whether an RDMA access is allowed, and where it goes.
    ///
    /// # Errors
    ///
    /// The [`Nak`] for the requester; this queue pair is then in error.
    #[inline]
    pub fn rdma_target<'q>(
        &mut self,
        qp: &'q Arc<Qp>,
        remote: Remote,
        len: u64,
        right: AccessFlags,
        later: &mut Later,
    ) -> Result<Target<'q>, Nak> {
        if !self.access.contains(right) {
            fail(qp, EventKind::QpRequestError, later);
            return Err(Nak::InvalidRequest);
        }
        match self.region(qp, remote, len, right) {
            Some((start, end)) => Ok(Target { space: &qp.pd.ctx.space, start, end }),
            None => {
                fail(qp, EventKind::QpAccessError, later);
                Err(Nak::RemoteAccess)
            }
        }
    }

    /// Where an RDMA access goes, if it is allowed. Nothing happens if it is not.
    #[inline]
    pub fn allowed(
        &mut self,
        qp: &Qp,
        remote: Remote,
        len: u64,
        right: AccessFlags,
    ) -> Option<Gva> {
        if !self.access.contains(right) {
            return None;
        }
        self.region(qp, remote, len, right).map(|(start, _)| start)
    }

    /// The first byte, and the end of the region that allows the access.
    #[inline]
    fn region(
        &mut self,
        qp: &Qp,
        remote: Remote,
        len: u64,
        right: AccessFlags,
    ) -> Option<(Gva, Gva)> {
        let mr = self.keys.get(&qp.session.keys, remote.rkey)?;
        if !Arc::ptr_eq(&mr.pd, &qp.pd) {
            return None;
        }
        Some((mr.check(remote.addr, len, right)?, mr.end()))
    }

    /// Completes the message that arrived.
    ///
    /// # Errors
    ///
    /// The [`Nak`] for the sender if the completion queue overran.
    pub fn finish_receive(
        &mut self,
        qp: &Arc<Qp>,
        opcode: WcOpcode,
        byte_len: u64,
        imm: Option<[u8; 4]>,
        solicited: bool,
        later: &mut Later,
    ) -> Result<(), Nak> {
        let Some(receiving) = self.receiving.take() else { return Err(Nak::RemoteOperation) };
        let mut cqe = self.cqe(qp, receiving.wr_id, WcStatus::Success);
        cqe.opcode = opcode.0;
        // A message is at most 2^31 bytes.
        cqe.byte_len = (byte_len as u32).into();
        if let Some(imm) = imm {
            cqe.imm = imm;
            cqe.flags = CqeFlags::WITH_IMM.bits();
        }
        self.received(qp, cqe, solicited, later)
    }

    /// Publishes the completion of a message that arrived whole.
    #[inline]
    fn received(
        &mut self,
        qp: &Arc<Qp>,
        cqe: Cqe,
        solicited: bool,
        later: &mut Later,
    ) -> Result<(), Nak> {
        let published = qp.recv_cq.publish(&[cqe.into()]);
        later.notify(&qp.recv_cq, solicited);
        if !self.established {
            self.establish(qp, later);
        }
        published.map_err(|_| {
            fail(qp, EventKind::QpFatal, later);
            Nak::RemoteOperation
        })
    }

    #[cold]
    fn establish(&mut self, qp: &Arc<Qp>, later: &mut Later) {
        if qp.state() == QpState::Rtr {
            later.event(qp, EventKind::CommEstablished);
        }
        self.established = true;
    }

    /// Where a SEND of `len` bytes goes, and the number of the receive element, if the next one has one
    /// range with room for it. The element stays where it is, and nothing happens if there is none.
    #[inline]
    pub fn expect_receive(&mut self, qp: &Qp, len: u64) -> Option<(Gva, u64)> {
        // Whoever waits, on either side, is the general way's affair.
        if self.receiving.is_some() || self.wants || self.waiter.is_some() {
            return None;
        }
        let (first, words) = self.ring.peek(&qp.memory)?;
        // Relaxed: ordered by the Acquire of the first word.
        let word = |index: usize| words[index].load(Ordering::Relaxed);
        let head: RecvWqe = zerocopy::transmute!([first, word(1)]);
        if head.num_sge != 1 || head.reserved0 != 0 || head.reserved1 != [0; 5] {
            return None;
        }
        let sge: Sge = zerocopy::transmute!([word(RECV_HEAD), word(RECV_HEAD + 1)]);
        let length = u64::from(sge.length.get());
        let mr = self.keys.get(&qp.session.keys, sge.lkey.get())?;
        if length < len || !Arc::ptr_eq(&mr.pd, &qp.pd) {
            return None;
        }
        // The whole range, as for any other message.
        let start = mr.check(sge.addr.get(), length, AccessFlags::LOCAL_WRITE)?;
        Some((start, head.wr_id.get()))
    }

    /// Takes the element that [`Self::expect_receive`] found, whose bytes have arrived.
    ///
    /// # Errors
    ///
    /// As [`Self::finish_receive`].
    #[inline]
    pub fn receive_usual(
        &mut self,
        qp: &Arc<Qp>,
        wr_id: u64,
        len: u64,
        solicited: bool,
        later: &mut Later,
    ) -> Result<(), Nak> {
        self.ring.skip(&qp.memory);
        let mut cqe = self.cqe(qp, wr_id, WcStatus::Success);
        // A message is at most 2^31 bytes.
        cqe.byte_len = (len as u32).into();
        self.received(qp, cqe, solicited, later)
    }

    /// Completes the receive element in use with an error, and puts the queue pair into error.
    pub fn fail_receive(&mut self, qp: &Arc<Qp>, status: WcStatus, later: &mut Later) {
        if let Some(receiving) = self.receiving.take() {
            let cqe = self.cqe(qp, receiving.wr_id, status);
            // An overrun is told by an event of its own.
            let _ = qp.recv_cq.publish(&[cqe.into()]);
            later.notify(&qp.recv_cq, true);
        }
        enter_error(qp, later);
    }

    fn cqe(&self, qp: &Qp, wr_id: u64, status: WcStatus) -> Cqe {
        Cqe {
            wr_id: wr_id.into(),
            qpn: qp.qpn.into(),
            wqe_count: self.ring.consumed().into(),
            opcode: WcOpcode::Recv.0,
            status: status.0,
            ..Cqe::default()
        }
    }

    /// Flushes up to a ring's worth of receive elements; from now on the driver rings for each new
    /// one. `true` if there may be more: then it was not asked to ring yet.
    pub fn flush(&mut self, qp: &Arc<Qp>, later: &mut Later) -> bool {
        later.notify(&qp.recv_cq, true);
        let mut wr_id = self.receiving.take().map(|receiving| receiving.wr_id);
        for _ in 0..=self.ring.depth() {
            let Some(id) = wr_id.or_else(|| self.take(&qp.memory).map(|request| request.wr_id))
            else {
                return false;
            };
            wr_id = None;
            let cqe = self.cqe(qp, id, WcStatus::WrFlushErr);
            if qp.recv_cq.publish(&[cqe.into()]).is_err() {
                return false;
            }
        }
        true
    }

    /// After the driver rang: the requester that may go on, if one waited and an element is there.
    pub fn take_waiter(&mut self, memory: &RingMemory) -> Option<Sender> {
        if !self.ring.is_posted(memory) {
            return None;
        }
        let waiter = self.waiter.take()?;
        self.want_doorbell(memory, false);
        Some(waiter)
    }

    /// Whether a requester waits for a receive element.
    pub fn has_waiter(&self) -> bool {
        self.waiter.is_some()
    }
}

/// Puts a queue pair into error and lets its worker flush it.
pub fn enter_error(qp: &Arc<Qp>, later: &mut Later) {
    if qp.state() != QpState::Err {
        // Its worker may have believed that only an element matters: mail tells it otherwise.
        qp.set_state(QpState::Err);
        later.schedule(qp);
    }
}

/// The same for an error that no completion of this side tells.
pub fn fail(qp: &Arc<Qp>, kind: EventKind, later: &mut Later) {
    if qp.state() != QpState::Err {
        later.event(qp, kind);
    }
    enter_error(qp, later);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{qp, session};
    use vnic_abi::wqe::WqeFlags;

    /// A flush that ends before it saw the ring empty goes on, since no doorbell would tell it to.
    #[test]
    fn a_flush_ends_with_an_empty_ring_and_a_wish_for_the_doorbell() {
        let (session, pd) = session();
        let qp = qp(&session, pd);
        let wants = || qp.memory.word32(QP_RQ_WANTS_DOORBELL as usize).load(Ordering::Relaxed) != 0;
        for index in 0..4 {
            let element = u64::from_le_bytes([0, WqeFlags::PHASE.bits(), 0, 0, 0, 0, 0, 0]);
            qp.memory.word(8192 + index * 64).store(element, Ordering::Relaxed);
        }
        let (mut responder, mut later) = (qp.responder.lock(), Later::default());
        responder.receiving = Some(Receiving { wr_id: 1, num_sge: 0 });
        assert!(responder.flush(&qp, &mut later) && !wants());
        assert!(!responder.flush(&qp, &mut later) && wants());
        assert_eq!(responder.ring.consumed(), 4);
    }
}
