// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A requester whose peer is at another daemon: many requests are under way, and answers come later.
//!
//! Nothing of a request is kept but what its completion says: whoever has to send again reads the element again,
//! which the driver does not touch before the completion.

use super::{Current, Failed, Fetched, MAX_REQUESTS, PATIENT, Pause, Requester, complete};
use crate::engine::core::Core;
use crate::engine::request::{Op, SendRequest};
use crate::engine::timer::Half;
use crate::engine::wait::Refusal;
use crate::fabric::local::Advance;
use crate::fabric::relay::half::own_keys_allow;
use crate::fabric::relay::responder::with_transfer;
use crate::object::qp::Qp;
use crate::object::qp::attr::ack_timeout;
use crate::ring::sq::Element;
use crate::wire::frame::{HEADER, Request};
use crate::wire::link::Link;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vnic_abi::cqe::{WcOpcode, WcStatus};
use vnic_abi::ctrl::QpState;

use super::usual::Done;

/// Requests under way, at most.
const WINDOW: usize = 64;

/// The shortest ACK time-out, whatever the queue pair asks for: what a lane holds is on its way for longer than a
/// packet is.
const LEAST: Duration = Duration::from_millis(50);

/// What ends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// An acknowledgement.
    Ack,
    /// All bytes of a READ.
    Data,
    /// The former word of an atomic.
    Former,
}

/// A request that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub wr_id: u64,
    pub opcode: WcOpcode,
    pub total: u64,
    pub signaled: bool,
    pub ends: Ends,
}

/// The way to a peer at another daemon, and what is under way on it.
#[derive(Debug)]
pub(super) struct Wire {
    pub link: Arc<Link>,
    port: u32,
    pub connection: u32,
    /// Number of the oldest request under way, or of the next one.
    pub base: u32,
    pub window: VecDeque<Sent>,
    /// READs and atomics among them.
    pub reads: u32,
    /// Bytes of the oldest request that have arrived, if it is a READ.
    pub arrived: u64,
    /// Where the next request begins that is taken: that of the oldest after going back.
    pub start: u64,
    /// The responder said that it waits.
    pub paused: bool,
    /// A request that fails when all before it are done.
    pub failed: Option<Failed>,
    /// The element of the READ or atomic whose result arrives.
    pub element: Element,
    /// Which one that is.
    pub element_of: Option<u32>,
    deadline: Option<Instant>,
    /// Something was answered since the deadline was set.
    pub progressed: bool,
}

impl Wire {
    fn new(link: Arc<Link>, port: u32, connection: u32, stride: u32) -> Box<Self> {
        Box::new(Self {
            link,
            port,
            connection,
            base: 0,
            window: VecDeque::new(),
            reads: 0,
            arrived: 0,
            start: 0,
            paused: false,
            failed: None,
            element: Element::new(stride),
            element_of: None,
            deadline: None,
            progressed: false,
        })
    }

    /// Number of the request that is sent next.
    pub fn next(&self) -> u32 {
        self.base.wrapping_add(self.window.len() as u32)
    }
}

impl Requester {
    /// Finds the peer among those of other daemons. `false` if nobody knows it.
    pub(super) fn look_over_the_wire(&mut self, qp: &Qp, core: &Core) -> bool {
        let attr = qp.attr();
        let found = core.device.links().find(&qp.session.network, &attr.av.dgid);
        let Some((link, port)) = found else { return false };
        let stride = self.ring.stride();
        match &mut self.wire {
            // The same connection by another way.
            Some(wire) if wire.link.peer == link.peer => (wire.link, wire.port) = (link, port),
            wire => *wire = Some(Wire::new(link, port, core.device.next_connection(), stride)),
        }
        self.peer_known = true;
        true
    }

    /// Elements that were taken and not sent: one or none.
    pub(super) fn in_hand(&self) -> u32 {
        let fails = self.wire.as_ref().is_some_and(|wire| wire.failed.is_some());
        u32::from(self.current.is_some() || fails)
    }

    /// Takes everything back that is under way: it is sent again, the oldest from byte `start` on.
    pub(super) fn go_back(&mut self, start: u64) {
        let in_hand = self.in_hand();
        let Some(wire) = &mut self.wire else { return };
        let taken = wire.window.len() as u32 + in_hand;
        wire.failed = None;
        wire.window.clear();
        (wire.reads, wire.arrived, wire.start) = (0, 0, start);
        (wire.paused, wire.element_of, wire.deadline) = (false, None, None);
        self.current = None;
        self.ring.go_back(taken);
    }

    /// Sends until the budget, the ring, the lane's room or something to wait for ends it.
    #[cold]
    pub(super) fn send_over_the_wire(
        &mut self,
        qp: &Arc<Qp>,
        core: &mut Core,
        refused: Option<Refusal>,
        done: &mut Done,
    ) -> Pause {
        if let Some(pause) = self.look_at_deadline(qp, core) {
            return pause;
        }
        let pause = self.send_some(qp, core, refused, done);
        let link = self.wire.as_ref().map(|wire| wire.link.id);
        if let Some(open) = link.and_then(|link| core.lanes.of(link, core.worker)) {
            open.lane.flush();
        }
        if !matches!(pause, Pause::Timer(..)) {
            self.set_deadline(qp, core);
        }
        pause
    }

    fn send_some(
        &mut self,
        qp: &Arc<Qp>,
        core: &mut Core,
        mut refused: Option<Refusal>,
        done: &mut Done,
    ) -> Pause {
        let most_reads = u32::from(qp.attr().max_rd_atomic).max(1);
        loop {
            let Some(wire) = &mut self.wire else { return Pause::Idle };
            if let Some(failed) = wire.failed {
                if wire.window.is_empty() {
                    wire.failed = None;
                    self.current = None;
                    self.fail_with(qp, core, failed);
                }
                return Pause::Idle;
            }
            if wire.window.len() >= WINDOW {
                return Pause::Idle;
            }
            if done.requests >= MAX_REQUESTS || done.bytes >= done.limit {
                return Pause::More;
            }
            if self.current.is_none() && !self.take_for_the_wire(qp) {
                return Pause::Idle;
            }
            let (Some(wire), Some(current)) = (&mut self.wire, &mut self.current) else { continue };
            let request = current.request;
            if let Some(Refusal::Denied(_) | Refusal::Late(_)) = refused.take() {
                wire.failed = Some(Failed::of(&request, WcStatus::LocProtErr));
                continue;
            }
            let gives_bytes = matches!(request.op, Op::Read(_) | Op::Atomic(..));
            if (gives_bytes && wire.reads >= most_reads) || (request.fenced && wire.reads != 0) {
                return Pause::Idle;
            }
            match self.send_part(qp, core, &request) {
                Part::Sent(moved) => done.bytes += moved,
                Part::Whole(moved) => {
                    done.bytes += moved;
                    done.requests += 1;
                }
                Part::NoRoom => return Pause::Idle,
                Part::Lost => return Pause::More,
                Part::Missing(missing) => return Pause::Missing(missing),
                Part::Failed(status) => {
                    if let Some(wire) = &mut self.wire {
                        wire.failed = Some(Failed::of(&request, status));
                    }
                }
            }
        }
    }

    /// Takes the next request in hand.
    fn take_for_the_wire(&mut self, qp: &Qp) -> bool {
        if qp.state() != QpState::Rts {
            return false;
        }
        let fetched = self.fetch(qp);
        let Some(wire) = &mut self.wire else { return false };
        match fetched {
            Fetched::Nothing => false,
            Fetched::Request(request) => {
                let start = std::mem::take(&mut wire.start).min(request.total);
                self.current = Some(Current { request, done: start });
                true
            }
            Fetched::Bad(failed) => {
                wire.failed = Some(failed);
                true
            }
        }
    }

    /// Sends a frame of the request in hand.
    fn send_part(&mut self, qp: &Arc<Qp>, core: &mut Core, request: &SendRequest) -> Part {
        let (Some(wire), Some(current)) = (&mut self.wire, &mut self.current) else {
            return Part::Lost;
        };
        let local = request.local.of(&self.element);
        if current.done == 0 && !own_keys_allow(qp, request, local, &mut self.keys) {
            return Part::Failed(WcStatus::LocProtErr);
        }
        let mut lanes = std::mem::take(&mut core.lanes);
        let part = 'sent: {
            let Some(open) = lanes.of(wire.link.id, core.worker) else { break 'sent Part::Lost };
            let most = open.lane.max_message() - HEADER;
            // Answers first: requests must not take the room from them.
            let room = if open.is_owing() { None } else { open.lane.buffer() };
            let Some(room) = room else {
                open.wait_for_room(qp);
                break 'sent Part::NoRoom;
            };
            let sends = matches!(request.op, Op::Send | Op::Write(_));
            let offset = current.done;
            let frame = Request {
                to_port: wire.port,
                to_qpn: qp.attr().dest_qpn.get(),
                from_qpn: qp.qpn,
                connection: wire.connection,
                seq: wire.next(),
                offset: offset as u32,
                total: request.total as u32,
                op: request.op,
                imm: request.imm,
                solicited: request.solicited,
                bytes: &[],
            };
            let head = frame.write_head(room);
            let len = if sends { (request.total - offset).min(most as u64) as usize } else { 0 };
            let Some(room) = room.get_mut(head..head + len) else { break 'sent Part::NoRoom };
            let mut to = offset;
            let advance = if len == 0 {
                Some(Advance::Done)
            } else {
                with_transfer(core, qp, request.total, len as u64, |transfer| {
                    let keys = &mut self.keys;
                    transfer.gather(room, qp, local, request.total, keys, &mut to)
                })
            };
            let moved = to - offset;
            match advance {
                Some(Advance::Missing(missing)) if !missing.recoverable => {
                    break 'sent Part::Failed(WcStatus::LocProtErr);
                }
                // What is there goes: the page that is missing may be long in coming.
                Some(Advance::Missing(missing)) if moved == 0 => {
                    break 'sent Part::Missing(missing);
                }
                Some(Advance::Failed(status)) => break 'sent Part::Failed(status),
                None => break 'sent Part::Lost,
                Some(_) => {}
            }
            open.lane.send(head + moved as usize);
            // Whoever takes more has not stopped.
            wire.progressed = true;
            current.done = to;
            if sends && to < request.total { Part::Sent(moved) } else { Part::Whole(moved) }
        };
        core.lanes = lanes;
        if matches!(part, Part::Sent(1..) | Part::Whole(_)) {
            self.page_progress();
        }
        if matches!(part, Part::Whole(_)) {
            self.is_under_way(request);
        }
        part
    }

    /// All of the request in hand was sent.
    fn is_under_way(&mut self, request: &SendRequest) {
        let Some(wire) = &mut self.wire else { return };
        let ends = match request.op {
            Op::Send | Op::Write(_) => Ends::Ack,
            Op::Read(_) => Ends::Data,
            Op::Atomic(..) => Ends::Former,
        };
        if ends != Ends::Ack {
            if wire.window.is_empty() {
                // A READ that goes on where it stopped.
                wire.arrived = self.current.as_ref().map_or(0, |current| current.done);
            }
            wire.reads += 1;
        }
        let &SendRequest { wr_id, total, signaled, .. } = request;
        let opcode = request.wc_opcode();
        wire.window.push_back(Sent { wr_id, opcode, total, signaled, ends });
        self.current = None;
    }

    /// Completes a request with an error. `count` is that of elements up to and with it.
    fn fail_with(&mut self, qp: &Arc<Qp>, core: &mut Core, failed: Failed) {
        self.progress();
        let count = self.ring.consumed();
        complete(qp, core, count, failed.wr_id, failed.opcode, failed.status, 0);
    }

    /// What was asked for has not been answered for so long that something has to be done about it.
    fn look_at_deadline(&mut self, qp: &Arc<Qp>, core: &mut Core) -> Option<Pause> {
        let wire = self.wire.as_mut()?;
        if wire.paused || wire.deadline.is_none_or(|deadline| Instant::now() < deadline) {
            return None;
        }
        wire.deadline = None;
        if wire.window.is_empty() || std::mem::take(&mut wire.progressed) {
            return None;
        }
        if ack_timeout(self.patience.timeout).is_some() {
            self.timeouts = self.timeouts.saturating_add(1);
        }
        if self.timeouts <= self.patience.retry_cnt {
            self.go_back(0);
            return None;
        }
        self.fail_oldest(qp, core, WcStatus::RetryExcErr);
        Some(Pause::Idle)
    }

    fn set_deadline(&mut self, qp: &Arc<Qp>, core: &mut Core) {
        let timeout = ack_timeout(self.patience.timeout).unwrap_or(PATIENT).max(LEAST);
        let Some(wire) = &mut self.wire else { return };
        if wire.window.is_empty() || wire.paused || wire.deadline.is_some() {
            return;
        }
        let deadline = Instant::now() + timeout;
        // What was sent before does not count: the time begins now.
        (wire.deadline, wire.progressed) = (Some(deadline), false);
        core.timers.at(deadline, qp, Half::Send);
    }

    /// The timer was used for something else.
    #[cold]
    pub(super) fn forget_deadline(&mut self) {
        if let Some(wire) = &mut self.wire {
            wire.deadline = None;
        }
    }

    /// The oldest request fails; the others follow when the queue pair is flushed.
    pub(super) fn fail_oldest(&mut self, qp: &Arc<Qp>, core: &mut Core, status: WcStatus) {
        let in_hand = self.in_hand();
        let Some(wire) = &mut self.wire else { return };
        let behind = wire.window.len() as u32 + in_hand;
        let count = self.ring.consumed().wrapping_sub(behind.saturating_sub(1));
        let failed = if let Some(sent) = wire.window.pop_front() {
            wire.base = wire.base.wrapping_add(1);
            Failed { wr_id: sent.wr_id, opcode: sent.opcode, status }
        } else if let Some(current) = self.current.take() {
            Failed::of(&current.request, status)
        } else {
            return;
        };
        self.progress();
        complete(qp, core, count, failed.wr_id, failed.opcode, failed.status, 0);
    }

    /// What is under way ends with errors.
    #[cold]
    pub(super) fn flush_the_wire(&mut self, qp: &Arc<Qp>, core: &mut Core) {
        let in_hand = self.in_hand();
        let Some(wire) = &mut self.wire else { return };
        let behind = wire.window.len() as u32 + in_hand;
        let first = self.ring.consumed().wrapping_sub(behind);
        for (index, sent) in wire.window.drain(..).enumerate() {
            let count = first.wrapping_add(index as u32 + 1);
            complete(qp, core, count, sent.wr_id, sent.opcode, WcStatus::WrFlushErr, 0);
        }
        if let Some(failed) = wire.failed.take()
            && self.current.is_none()
        {
            let count = self.ring.consumed();
            complete(qp, core, count, failed.wr_id, failed.opcode, WcStatus::WrFlushErr, 0);
        }
        self.wire = None;
    }
}

/// What became of a frame.
enum Part {
    /// So many bytes are on their way, and more are to come.
    Sent(u64),
    /// So many bytes, and with them all of the request.
    Whole(u64),
    /// The lane has no room.
    NoRoom,
    /// There is no lane any more.
    Lost,
    /// A page of the requester's is missing.
    Missing(crate::fabric::local::Missing),
    /// The requester's own fault.
    Failed(WcStatus),
}
