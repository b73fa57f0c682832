// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sending half of a queue pair: one request after the other, in order.

mod answers;
mod direct;
mod glance;
mod peer;
mod turn;
mod usual;
mod wire;

pub use answers::answered;
use peer::Way;
pub use turn::run;
use usual::Done;
use wire::Wire;

use crate::engine::core::Core;
use crate::engine::request::{Op, SendRequest};
use crate::engine::responder::{Nak, Responder, enter_error, fail};
use crate::engine::stream::Stream;
use crate::engine::wait::{Reason, Refusal, Side, Wait};
use crate::fabric::direct::done::has_flushed;
use crate::fabric::local::{Advance, Missing, Transfer};
use crate::object::mr::KeyCache;
use crate::object::qp::Qp;
use crate::object::qp::attr::ack_timeout;
use crate::port::MAX_MESSAGE;
use crate::ring::sq::{Element, WorkRing};
use crate::session::Session;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use vnic_abi::config::Features;
use vnic_abi::cqe::{Cqe, WcOpcode, WcStatus};
use vnic_abi::ctrl::{QpAttr, QpState};
use vnic_abi::doorbell::QP_SQ_OFFSET;
use vnic_abi::event::EventKind;
use vnic_iommu::quiesce::Burst;

/// Requests that one queue pair may start before others have their turn.
const MAX_REQUESTS: u32 = 32;
/// What a request costs in the scheduler beside its bytes.
const REQUEST_COST: u64 = 256;
/// How often to look for the peer when the time-out is "for ever".
const PATIENT: Duration = Duration::from_millis(100);
/// RNR retry count that means "for ever".
const RNR_FOREVER: u8 = 7;

/// The request in hand.
#[derive(Debug)]
struct Current {
    request: SendRequest,
    done: u64,
}

/// How long a request is tried.
#[derive(Debug, Clone, Copy, Default)]
struct Patience {
    timeout: u8,
    retry_cnt: u8,
    rnr_retry: u8,
}

/// The sending half.
#[derive(Debug)]
pub struct Requester {
    ring: WorkRing,
    element: Element,
    current: Option<Current>,
    wait: Wait,
    keys: KeyCache,
    patience: Patience,
    rnr_used: u8,
    timeouts: u8,
    page_tries: u32,
    /// Since when the request in hand waits for pages without a byte of progress.
    page_since: Option<Instant>,
    /// Whose table of page requests may know this queue pair as a waiter.
    asked: Weak<Session>,
    /// Where requests walk, on the local and on the remote side. Made when the first page is missing.
    streams: Option<Box<[Stream; 2]>>,
    peer: Weak<Qp>,
    peer_connection: u32,
    /// The peer was looked up with the attributes of now.
    peer_known: bool,
    /// What is under way to a peer at another daemon.
    wire: Option<Box<Wire>>,
}

/// What came of looking for the next element.
enum Fetched {
    /// There is none.
    Nothing,
    /// A request.
    Request(SendRequest),
    /// An element that makes no request.
    Bad(Failed),
}

/// A request that fails, with what its completion says.
#[derive(Debug, Clone, Copy)]
pub struct Failed {
    /// From the driver.
    pub wr_id: u64,
    /// What it was.
    pub opcode: WcOpcode,
    /// Why it failed.
    pub status: WcStatus,
}

impl Failed {
    fn of(request: &SendRequest, status: WcStatus) -> Self {
        Self { wr_id: request.wr_id, opcode: request.wc_opcode(), status }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Cost for the scheduler, about bytes.
    pub cost: u64,
    /// There is more to do at once.
    pub more: bool,
}

/// Why a step's loop ended, with what is to be done outside the burst.
enum Pause {
    Idle,
    More,
    Missing(Missing),
    Timer(Duration, Reason),
}

impl Requester {
    /// In the RESET state.
    pub fn new(depth: u32, stride: u32) -> Self {
        Self {
            ring: WorkRing::of_sends(QP_SQ_OFFSET as usize, depth, stride),
            element: Element::new(stride),
            current: None,
            wait: Wait::Nothing,
            keys: KeyCache::default(),
            patience: Patience::default(),
            rnr_used: 0,
            timeouts: 0,
            page_tries: 0,
            page_since: None,
            asked: Weak::new(),
            streams: None,
            peer: Weak::new(),
            peer_connection: 0,
            peer_known: false,
            wire: None,
        }
    }

    /// Back to the RESET state, as the half of queue pair `qpn`.
    pub fn reset(&mut self, qpn: u32) {
        self.ring.reset();
        self.current = None;
        self.wire = None;
        self.stop_waiting(qpn);
        self.streams = None;
        self.keys.clear();
        self.peer = Weak::new();
        self.rnr_used = 0;
        self.timeouts = 0;
        self.page_progress();
    }

    /// Waits for nothing any more, and lets nobody believe otherwise.
    fn stop_waiting(&mut self, qpn: u32) {
        self.wait = Wait::Nothing;
        if let Some(session) = std::mem::take(&mut self.asked).upgrade() {
            session.forget_page_waiter(qpn);
        }
    }

    /// Pages came, or are not needed any more.
    fn page_progress(&mut self) {
        self.page_tries = 0;
        self.page_since = None;
    }

    /// Takes over attributes.
    pub fn configure(&mut self, attr: &QpAttr) {
        let &QpAttr { timeout, retry_cnt, rnr_retry, .. } = attr;
        self.patience = Patience { timeout, retry_cnt, rnr_retry };
        // The way to the peer may have changed.
        self.peer_known = false;
    }

    /// Takes the next element and parses it.
    #[inline]
    fn fetch(&mut self, qp: &Qp) -> Fetched {
        if !self.ring.take(&qp.memory, &mut self.element) {
            return Fetched::Nothing;
        }
        let bad = |wr_id, opcode, status| Fetched::Bad(Failed { wr_id, opcode, status });
        match SendRequest::parse(&self.element) {
            // What was not negotiated does not exist.
            Ok(SendRequest { op: Op::Atomic(..), wr_id, .. })
                if !qp.session.features.contains(Features::ATOMIC) =>
            {
                bad(wr_id, WcOpcode::Send, WcStatus::LocQpOpErr)
            }
            Ok(request) if request.total <= u64::from(MAX_MESSAGE) => Fetched::Request(request),
            Ok(request) => bad(request.wr_id, request.wc_opcode(), WcStatus::LocLenErr),
            Err(element) => bad(element.wr_id, WcOpcode::Send, WcStatus::LocQpOpErr),
        }
    }

    /// Publishes completions that were added.
    #[inline]
    pub(crate) fn publish(qp: &Arc<Qp>, core: &mut Core) {
        if core.completions.publish(&qp.send_cq).is_err() {
            fail(qp, EventKind::QpFatal, &mut core.later);
        }
    }

    /// As [`complete`], for the element taken last.
    fn complete(
        &self,
        qp: &Arc<Qp>,
        wr_id: u64,
        opcode: WcOpcode,
        status: WcStatus,
        byte_len: u64,
        core: &mut Core,
    ) {
        complete(qp, core, self.ring.consumed(), wr_id, opcode, status, byte_len);
    }

    /// A request came to its end.
    #[inline]
    pub(crate) fn progress(&mut self) {
        self.rnr_used = 0;
        self.timeouts = 0;
        self.page_progress();
    }

    /// Completes the request in hand.
    #[inline]
    fn finish(&mut self, qp: &Arc<Qp>, status: WcStatus, core: &mut Core) {
        let Some(Current { request, .. }) = self.current.take() else { return };
        self.progress();
        if status != WcStatus::Success || request.signaled || qp.sq_sig_all {
            let (id, opcode) = (request.wr_id, request.wc_opcode());
            self.complete(qp, id, opcode, status, request.total, core);
        }
    }

    /// Requests end with errors until the ring is empty.
    #[cold]
    fn flush(&mut self, qp: &Arc<Qp>, core: &mut Core) -> Step {
        self.stop_waiting(qp.qpn);
        self.flush_the_wire(qp, core);
        // What the host has comes first, and is told when it is done.
        if !has_flushed(core, qp) {
            return Step::default();
        }
        self.finish(qp, WcStatus::WrFlushErr, core);
        let mut flushed = 0;
        while flushed < self.ring.depth() && self.ring.take(&qp.memory, &mut self.element) {
            flushed += 1;
            let wr_id = SendRequest::parse(&self.element)
                .map_or_else(|bad| bad.wr_id, |request| request.wr_id);
            self.complete(qp, wr_id, WcOpcode::Send, WcStatus::WrFlushErr, 0, core);
        }
        Self::publish(qp, core);
        let more = qp.responder.lock().flush(qp, &mut core.later);
        // A program that posts as fast as this loop takes gets its next turn in order.
        let more = more || flushed == self.ring.depth();
        Step { cost: u64::from(flushed + 1) * REQUEST_COST, more }
    }

    fn status_of(&self, nak: Nak) -> Result<Pause, WcStatus> {
        if let Nak::Rnr(delay) = nak {
            let forever = self.patience.rnr_retry == RNR_FOREVER;
            if forever || self.rnr_used < self.patience.rnr_retry {
                return Ok(Pause::Timer(delay, Reason::ReceiverNotReady));
            }
        }
        Err(nak.status())
    }

    /// The peer does not answer: wait, and give up after all retries.
    fn unanswered(&self) -> Result<Pause, WcStatus> {
        match ack_timeout(self.patience.timeout) {
            None => Ok(Pause::Timer(PATIENT, Reason::NoAnswer)),
            Some(_) if self.timeouts > self.patience.retry_cnt => Err(WcStatus::RetryExcErr),
            Some(timeout) => Ok(Pause::Timer(timeout, Reason::NoAnswer)),
        }
    }

    /// Counts what a wait that ended by time stands for.
    fn count_retry(&mut self, reason: Reason) {
        match reason {
            Reason::ReceiverNotReady => self.rnr_used = self.rnr_used.saturating_add(1),
            Reason::NoAnswer => self.timeouts = self.timeouts.saturating_add(1),
        }
    }

    /// Takes the next request in hand. `false` if there is none, or none that could be.
    #[inline]
    fn next(&mut self, qp: &Arc<Qp>, core: &mut Core) -> bool {
        if qp.state() != QpState::Rts {
            return false;
        }
        match self.fetch(qp) {
            Fetched::Nothing => false,
            Fetched::Request(request) => {
                self.current = Some(Current { request, done: 0 });
                true
            }
            Fetched::Bad(Failed { wr_id, opcode, status }) => {
                self.complete(qp, wr_id, opcode, status, 0, core);
                false
            }
        }
    }

    /// Works until the budget, the ring or something to wait for ends it.
    fn work(&mut self, qp: &Arc<Qp>, core: &mut Core, refused: Option<Refusal>) -> (Pause, Step) {
        let (pause, Done { requests, bytes, .. }) = self.work_in_burst(qp, core, refused);
        // Of requests that failed without a burst.
        Self::publish(qp, core);
        // What goes over a wire counts when it was answered.
        if self.wire.is_none() && (requests != 0 || bytes != 0) {
            qp.session.work.add(core.worker, u64::from(requests), bytes);
        }
        let cost = bytes + (u64::from(requests) + 1) * REQUEST_COST;
        (pause, Step { cost, more: false })
    }

    /// Why it ended, and what was done.
    #[inline]
    fn work_in_burst(
        &mut self,
        qp: &Arc<Qp>,
        core: &mut Core,
        mut refused: Option<Refusal>,
    ) -> (Pause, Done) {
        let mut done = Done::of(core.chunk);
        if qp.is_direct() {
            return (self.send_direct(qp, core, &mut done), done);
        }
        if self.current.is_none()
            && self.wire.is_none()
            && !(qp.state() == QpState::Rts && self.ring.is_posted(&qp.memory))
        {
            return (Pause::Idle, done);
        }
        let peer = match self.way(qp, core) {
            Way::Local(peer) => peer,
            Way::Wire => {
                let pause = self.send_over_the_wire(qp, core, refused, &mut done);
                return (pause, done);
            }
            Way::Nobody => return (self.without_peer(qp, core), done),
        };
        let slots = (core.slots.of(&qp.session), core.slots.of(&peer.session));
        let (Some(own_slot), Some(peer_slot)) = slots else {
            return (Pause::Idle, done);
        };
        #[allow(unsafe_code)] // reason: saves a fence
        // SAFETY: a lock is taken by an exchange that succeeds.
        let entered =
            unsafe { Burst::try_enter_both(&own_slot, &peer_slot, || peer.responder.try_lock()) };
        let (mut burst, mut responder) = entered.unwrap_or_else(|| {
            let responder = peer.responder.lock();
            (Burst::enter_both(&own_slot, &peer_slot), responder)
        });
        // It may have gone, or have been reset, before its lock was ours. Now it stays.
        if peer.is_destroyed() || !self.is_peer(&peer) {
            return (Pause::More, done);
        }
        // A turn is a chunk, but for one whom nobody waits for: then it is a few. They share a burst, for it is
        // dear to begin one (all stores have to be seen by then), unless a guest wants memory back.
        let pause = loop {
            let pause =
                self.burst(qp, &peer, &mut responder, core, &burst, &mut refused, &mut done);
            let full = done.bytes >= done.limit;
            if !matches!(pause, Pause::More) || !full || !core.watch.may_go_on(&mut done.bursts) {
                break pause;
            }
            done.limit = done.bytes + core.chunk;
            let wanted = |qp: &Qp| core.translator.is_wanted_back(&burst, &qp.pd.ctx.space.table);
            if wanted(qp) || wanted(&peer) {
                drop(burst);
                burst = Burst::enter_both(&own_slot, &peer_slot);
            }
        };
        drop(burst);
        Self::publish(qp, core);
        (pause, done)
    }

    /// Requests that share a burst and the peer's lock for as long as they need nothing else. Why it ended.
    #[inline]
    #[allow(clippy::too_many_arguments)] // reason: both ends, and what is done of the turn
    fn burst(
        &mut self,
        qp: &Arc<Qp>,
        peer: &Arc<Qp>,
        responder: &mut Responder,
        core: &mut Core,
        burst: &Burst<'_>,
        refused: &mut Option<Refusal>,
        done: &mut Done,
    ) -> Pause {
        loop {
            if self.current.is_none() {
                if self.usual(qp, peer, responder, core, burst, done, MAX_REQUESTS) {
                    return Pause::Idle;
                }
                if done.requests >= MAX_REQUESTS || done.bytes >= done.limit {
                    return Pause::More;
                }
                if !self.next(qp, core) {
                    return Pause::Idle;
                }
            }
            let rest = done.limit.saturating_sub(done.bytes);
            let (advance, moved) =
                self.advance(qp, peer, responder, core, burst, rest, refused.take());
            done.bytes += moved;
            if moved != 0 {
                self.page_progress();
                self.timeouts = 0;
            }
            match advance {
                Advance::Done => {
                    done.requests += 1;
                    self.finish(qp, WcStatus::Success, core);
                }
                Advance::More => return Pause::More,
                Advance::Missing(missing) => return Pause::Missing(missing),
                Advance::Nak(nak) => match self.status_of(nak) {
                    Ok(pause) => return pause,
                    Err(status) => {
                        self.finish(qp, status, core);
                        return Pause::Idle;
                    }
                },
                Advance::Failed(status) => {
                    self.finish(qp, status, core);
                    return Pause::Idle;
                }
            }
        }
    }

    /// There is a request, and nobody to send it to.
    #[cold]
    fn without_peer(&mut self, qp: &Arc<Qp>, core: &mut Core) -> Pause {
        if self.current.is_none() && !self.next(qp, core) {
            return Pause::Idle;
        }
        self.unanswered().unwrap_or_else(|status| {
            self.finish(qp, status, core);
            Pause::Idle
        })
    }

    #[inline]
    #[allow(clippy::too_many_arguments)] // reason: both ends of one transfer
    fn advance(
        &mut self,
        qp: &Arc<Qp>,
        peer: &Arc<Qp>,
        responder: &mut Responder,
        core: &mut Core,
        burst: &Burst<'_>,
        budget: u64,
        refused: Option<Refusal>,
    ) -> (Advance, u64) {
        let Some(Current { request, done }) = &mut self.current else {
            return (Advance::More, 0);
        };
        let mut transfer = Transfer {
            burst,
            translator: &mut core.translator,
            later: &mut core.later,
            ahead: &mut core.ahead,
            scratch: &mut core.scratch,
            reach: core.reaches.of(request.total),
            budget,
            moved: 0,
        };
        match refused {
            Some(Refusal::Denied(Side::Local) | Refusal::Late(Side::Local)) => {
                return (Advance::Failed(WcStatus::LocProtErr), 0);
            }
            Some(Refusal::Denied(Side::Remote)) => {
                return (transfer.refuse_page(request, peer, responder), 0);
            }
            // As from a responder that never answers: it is not at fault, and stays as it is.
            Some(Refusal::Late(Side::Remote)) => {
                return (Advance::Failed(WcStatus::RetryExcErr), 0);
            }
            None => {}
        }
        let local = request.local.of(&self.element);
        let mut advance =
            transfer.advance(qp, request, local, &mut self.keys, peer, responder, done);
        if let Advance::Missing(Missing { recoverable: false, side, .. }) = advance {
            advance = match side {
                Side::Local => Advance::Failed(WcStatus::LocProtErr),
                Side::Remote => transfer.refuse_page(request, peer, responder),
            };
        }
        (advance, transfer.moved)
    }
}

/// Adds a completion to those that [`Requester::publish`] publishes. One that is not a success puts the
/// queue pair into error. `count` is that of elements taken.
#[inline]
pub(crate) fn complete(
    qp: &Arc<Qp>,
    core: &mut Core,
    count: u32,
    wr_id: u64,
    opcode: WcOpcode,
    status: WcStatus,
    byte_len: u64,
) {
    let cqe = Cqe {
        wr_id: wr_id.into(),
        // A message is at most 2^31 bytes.
        byte_len: (byte_len as u32).into(),
        qpn: qp.qpn.into(),
        wqe_count: count.into(),
        opcode: opcode.0,
        status: status.0,
        ..Cqe::default()
    };
    // The driver looks at the first place all the time; the others can be fetched.
    if !core.completions.is_empty() {
        qp.send_cq.expect(core.completions.len());
    }
    if core.completions.push(cqe) {
        Requester::publish(qp, core);
    }
    if status != WcStatus::Success {
        enter_error(qp, &mut core.later);
    }
}
