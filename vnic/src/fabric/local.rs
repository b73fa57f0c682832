// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Both ends are guests of this device: one translated copy, no packet.

use crate::engine::copy::{End, Reach};
use crate::engine::core::Later;
use crate::engine::request::{LocalBytes, Op, Remote, SendRequest};
use crate::engine::responder::{Nak, Responder, Sender, fail};
use crate::engine::stream;
use crate::engine::wait::Side;
use crate::fabric::ahead::{Ahead, Needed};
use crate::fabric::bytes::{BadKey, Bytes, Piece, check_list};
use crate::fabric::pages;
use crate::fabric::spans::{self, Spans};
use crate::object::mr::KeyCache;
use crate::object::qp::Qp;
use std::sync::Arc;
use vnic_abi::cqe::{WcOpcode, WcStatus};
use vnic_abi::ctrl::AccessFlags;
use vnic_abi::event::EventKind;
use vnic_iommu::addr::Gva;
use vnic_iommu::quiesce::Burst;
use vnic_iommu::translate::{HostChunk, Translator};
use vnic_iommu::walk::{Access, Fault};

/// Where a transfer stopped for want of a page.
#[derive(Debug, Clone, Copy)]
pub struct Missing {
    /// Whose page.
    pub side: Side,
    /// First byte that is missing.
    pub va: Gva,
    /// Bytes from there on that are worth asking for, since the transfer will need them.
    pub len: u64,
    /// End of the region.
    pub limit: Gva,
    /// What for.
    pub access: Access,
    /// Whether the guest's kernel may be able to provide it.
    pub recoverable: bool,
}

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub enum Advance {
    /// It is done.
    Done,
    /// It goes on next time.
    More,
    /// It waits for a page.
    Missing(Missing),
    /// The responder refuses.
    Nak(Nak),
    /// It fails on the requester's own side.
    Failed(WcStatus),
}

/// Why a copy stopped before its end.
pub(super) enum Stop {
    Key(Side),
    Page(Missing),
}

/// Host memory of both sides. Lives longer than a transfer, since it is large.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Where bytes come from.
    pub from: Spans,
    /// Where they go.
    pub to: Spans,
}

impl Scratch {
    fn of(&mut self, writes: bool) -> &mut Spans {
        if writes { &mut self.to } else { &mut self.from }
    }
}

/// One transfer between a requester's and a responder's memory.
pub struct Transfer<'a, 'w> {
    /// Burst that covers both sides.
    pub burst: &'a Burst<'w>,
    /// The worker's translations.
    pub translator: &'a mut Translator,
    /// Left for after the burst.
    pub later: &'a mut Later,
    /// Other pages that the request will miss, to be asked for with the one that it waits for.
    pub ahead: &'a mut Ahead,
    /// Room for translations.
    pub scratch: &'a mut Scratch,
    /// How far the message reaches.
    pub reach: Reach,
    /// Bytes that may be moved before others have their turn.
    pub budget: u64,
    /// Bytes moved so far; the caller starts with 0.
    pub moved: u64,
}

impl<'a> Transfer<'a, '_> {
    /// Carries `request` on, of which `done` bytes are done.
    #[allow(clippy::too_many_arguments)] // reason: one request, both ends
    pub fn advance(
        &mut self,
        qp: &Arc<Qp>,
        request: &SendRequest,
        local: LocalBytes<'_>,
        keys: &mut KeyCache,
        peer: &Arc<Qp>,
        responder: &mut Responder,
        done: &mut u64,
    ) -> Advance {
        let reads = matches!(request.op, Op::Read(_) | Op::Atomic(..));
        let right = if reads { AccessFlags::LOCAL_WRITE } else { AccessFlags::empty() };
        if let LocalBytes::List(list) = local
            && *done == 0
            && !check_list(qp, list, keys, right)
        {
            return Advance::Failed(WcStatus::LocProtErr);
        }
        let local = match local {
            LocalBytes::Inline(bytes) => Bytes::Held { bytes, first: 0 },
            LocalBytes::List(list) => Bytes::List { qp, list, keys, right },
        };
        match request.op {
            Op::Send => self.send(Sender::Local(qp.qpn), request, local, peer, responder, done),
            Op::Write(remote) => {
                let sender = Sender::Local(qp.qpn);
                self.write(sender, request, local, remote, peer, responder, done)
            }
            Op::Read(remote) => self.read(request, local, remote, peer, responder, done),
            Op::Atomic(remote, op) => self.atomic(local, remote, op, peer, responder),
        }
    }

    #[allow(clippy::too_many_arguments)] // reason: one request, both ends
    pub(super) fn send(
        &mut self,
        sender: Sender,
        request: &SendRequest,
        local: Bytes<'_>,
        peer: &Arc<Qp>,
        responder: &mut Responder,
        done: &mut u64,
    ) -> Advance {
        if let Err(nak) = responder.begin_receive(peer, sender, self.later) {
            return Advance::Nak(nak);
        }
        let (list, keys) = responder.scatter();
        if request.total > list.total() {
            responder.fail_receive(peer, WcStatus::LocLenErr, self.later);
            return Advance::Nak(Nak::InvalidRequest);
        }
        let remote = Bytes::List { qp: peer, list, keys, right: AccessFlags::LOCAL_WRITE };
        match self.copy(local, remote, Side::Remote, request.total, done) {
            Ok(true) => {}
            Ok(false) => return Advance::More,
            Err(Stop::Page(missing)) => return Advance::Missing(missing),
            Err(Stop::Key(Side::Local)) => return Advance::Failed(WcStatus::LocProtErr),
            Err(Stop::Key(Side::Remote)) => return self.refuse_page(request, peer, responder),
        }
        self.deliver(request, WcOpcode::Recv, peer, responder)
    }

    fn deliver(
        &mut self,
        request: &SendRequest,
        opcode: WcOpcode,
        peer: &Arc<Qp>,
        responder: &mut Responder,
    ) -> Advance {
        let (imm, solicited) = (request.imm, request.solicited);
        let total = request.total;
        match responder.finish_receive(peer, opcode, total, imm, solicited, self.later) {
            Ok(()) => Advance::Done,
            Err(nak) => Advance::Nak(nak),
        }
    }

    #[allow(clippy::too_many_arguments)] // reason: one request, both ends
    pub(super) fn write(
        &mut self,
        sender: Sender,
        request: &SendRequest,
        local: Bytes<'_>,
        remote: Remote,
        peer: &Arc<Qp>,
        responder: &mut Responder,
        done: &mut u64,
    ) -> Advance {
        if *done < request.total {
            let right = AccessFlags::REMOTE_WRITE;
            let target = match responder.rdma_target(peer, remote, request.total, right, self.later)
            {
                Ok(target) => target,
                Err(nak) => return Advance::Nak(nak),
            };
            match self.copy(local, Bytes::Range(target), Side::Remote, request.total, done) {
                Ok(true) => {}
                Ok(false) => return Advance::More,
                Err(stop) => return self.rdma_stop(stop, peer),
            }
        }
        if request.imm.is_none() {
            return Advance::Done;
        }
        match responder.begin_receive(peer, sender, self.later) {
            Ok(_) => self.deliver(request, WcOpcode::RecvRdmaWithImm, peer, responder),
            Err(nak) => Advance::Nak(nak),
        }
    }

    fn read(
        &mut self,
        request: &SendRequest,
        local: Bytes<'_>,
        remote: Remote,
        peer: &Arc<Qp>,
        responder: &mut Responder,
        done: &mut u64,
    ) -> Advance {
        if request.total == 0 {
            return Advance::Done;
        }
        let right = AccessFlags::REMOTE_READ;
        let target = match responder.rdma_target(peer, remote, request.total, right, self.later) {
            Ok(target) => target,
            Err(nak) => return Advance::Nak(nak),
        };
        match self.copy(Bytes::Range(target), local, Side::Local, request.total, done) {
            Ok(true) => Advance::Done,
            Ok(false) => Advance::More,
            Err(stop) => self.rdma_stop(stop, peer),
        }
    }

    pub(super) fn rdma_stop(&mut self, stop: Stop, peer: &Arc<Qp>) -> Advance {
        match stop {
            Stop::Page(missing) => Advance::Missing(missing),
            Stop::Key(Side::Local) => Advance::Failed(WcStatus::LocProtErr),
            // The peer's address space was unbound.
            Stop::Key(Side::Remote) => self.refuse_rdma(peer),
        }
    }

    /// The guest cannot provide a page on the responder's side.
    pub fn refuse_page(
        &mut self,
        request: &SendRequest,
        peer: &Arc<Qp>,
        responder: &mut Responder,
    ) -> Advance {
        if request.op == Op::Send {
            responder.fail_receive(peer, WcStatus::LocProtErr, self.later);
            return Advance::Nak(Nak::RemoteOperation);
        }
        self.refuse_rdma(peer)
    }

    fn refuse_rdma(&mut self, peer: &Arc<Qp>) -> Advance {
        fail(peer, EventKind::QpAccessError, self.later);
        Advance::Nak(Nak::RemoteAccess)
    }

    /// Copies until the message, of which `done` bytes are done, ends (`true`) or the budget does.
    pub(super) fn copy(
        &mut self,
        mut from: Bytes<'_>,
        mut to: Bytes<'_>,
        to_side: Side,
        total: u64,
        done: &mut u64,
    ) -> Result<bool, Stop> {
        let from_side = match to_side {
            Side::Local => Side::Remote,
            Side::Remote => Side::Local,
        };
        match self.copy_pieces(&mut from, from_side, &mut to, to_side, total, done) {
            Err(Stop::Page(missing)) => {
                let ends = [(to, to_side, Access::Write), (from, from_side, Access::Read)];
                Err(Stop::Page(self.look_ahead(missing, ends, *done, total)))
            }
            other => other,
        }
    }

    /// What to ask for with a page that is missing: whatever else of the rest of the message is
    /// missing on either side, in bounds. Pages are only looked at, not marked.
    #[cold]
    pub(super) fn look_ahead(
        &mut self,
        missing: Missing,
        ends: [(Bytes<'_>, Side, Access); 2],
        done: u64,
        total: u64,
    ) -> Missing {
        self.ahead.begin();
        if !missing.recoverable || !self.ahead.enabled {
            return missing;
        }
        let end = total.min(done + stream::MOST);
        for (mut bytes, side, access) in ends {
            let mut at = done;
            while at < end {
                let Ok(Piece::Mapped { space, va, len, limit }) = bytes.piece(at) else { break };
                let len = len.min(end - at);
                let needed = Needed { side, va, len, limit, access };
                if !space.is_bound()
                    || !self.ahead.look(needed, |page| space.table.peek(page, access))
                {
                    break;
                }
                at += len;
            }
        }
        let len = self.ahead.take_first(missing.side, missing.va, missing.access);
        Missing { len: len.unwrap_or(missing.len), ..missing }
    }

    fn copy_pieces(
        &mut self,
        from: &mut Bytes<'_>,
        from_side: Side,
        to: &mut Bytes<'_>,
        to_side: Side,
        total: u64,
        done: &mut u64,
    ) -> Result<bool, Stop> {
        while *done < total {
            if self.moved >= self.budget {
                return Ok(false);
            }
            let want = (total - *done).min(self.budget - self.moved);
            let src = from.piece(*done).map_err(|BadKey| Stop::Key(from_side))?;
            let dst = to.piece(*done).map_err(|BadKey| Stop::Key(to_side))?;
            let want = want.min(src.len()).min(dst.len());
            let n = self.copy_range(&src, from_side, &dst, to_side, want, total - *done)?;
            *done += n;
            self.moved += n;
        }
        Ok(true)
    }

    /// Copies the first of `want` bytes between two pieces: all that are there, or as many as are
    /// translated at one time. `left` is what the message still has, these included.
    fn copy_range(
        &mut self,
        src: &Piece<'_>,
        from_side: Side,
        dst: &Piece<'_>,
        to_side: Side,
        want: u64,
        left: u64,
    ) -> Result<u64, Stop> {
        if let Some(done) = self.copy_cached(src, dst, want, left) {
            return Ok(done);
        }
        // What a fault leaves is copied before it is told.
        let had = |translated: Result<(), Stop>, total: usize, side| match (translated, total) {
            (Err(stop @ Stop::Key(_)), _) | (Err(stop), 0) => Err(stop),
            (Ok(()), 0) => Err(Stop::Key(side)),
            (_, total) => Ok(total as u64),
        };
        let to = self.translate(dst, want, Access::Write, to_side);
        let want = had(to, self.scratch.to.total(), to_side)?.min(want);
        let from = self.translate(src, want, Access::Read, from_side);
        let n = had(from, self.scratch.from.total(), from_side)?.min(want);
        let end = End { of_message: n == left, reach: self.reach };
        #[allow(unsafe_code)] // reason: guest memory is only reachable by address
        // SAFETY: both lists were filled above, in this burst, with `n` bytes at least.
        unsafe {
            spans::copy(&self.scratch.from, &self.scratch.to, n as usize, end);
        }
        Ok(n)
    }

    /// Copies the first of `want` bytes, if both pieces are of known pages.
    #[inline]
    fn copy_cached(
        &mut self,
        src: &Piece<'_>,
        dst: &Piece<'_>,
        want: u64,
        left: u64,
    ) -> Option<u64> {
        let (
            &Piece::Mapped { space: from, va: src, .. },
            &Piece::Mapped { space: to, va: dst, .. },
        ) = (src, dst)
        else {
            return None;
        };
        if !from.is_bound() || !to.is_bound() {
            return None;
        }
        let (from, to) = ((&from.table, src), (&to.table, dst));
        let end = End { of_message: want == left, reach: self.reach };
        let want = usize::try_from(want).ok()?;
        let done = pages::copy_cached(self.translator, self.burst, from, to, want, end);
        (done != 0).then_some(done as u64)
    }

    /// Fills one of the lists with host memory of the first `len` bytes of a piece. After an error it has
    /// what comes before the fault.
    fn translate(
        &mut self,
        piece: &Piece<'_>,
        len: u64,
        access: Access,
        side: Side,
    ) -> Result<(), Stop> {
        let writes = access.is_write();
        let (space, start) = match *piece {
            Piece::Held(bytes) => {
                let bytes = bytes.get(..len as usize).unwrap_or(bytes);
                self.scratch.of(writes).set_bytes(bytes);
                return Ok(());
            }
            Piece::Room { start, len: room } => {
                self.scratch.of(writes).set_room(start, room.min(len as usize));
                return Ok(());
            }
            Piece::Mapped { space, va, .. } => (space, va),
        };
        let spans = self.scratch.of(writes);
        if !space.is_bound() {
            return Err(Stop::Key(side));
        }
        // No piece is longer than a message, and none is translated that is longer than a turn.
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let (translator, burst) = (&mut *self.translator, self.burst);
        let walked = spans.translate(translator, burst, &space.table, start, len, access);
        walked.map_err(|fault| {
            let va = Gva(start.0 + spans.total() as u64);
            Stop::Page(missing(piece, va, access, side, fault))
        })
    }

    /// Host memory of a piece; `None` if its address space was unbound.
    pub(super) fn map<'s>(
        &mut self,
        piece: &'s Piece<'_>,
        len: u64,
        access: Access,
        side: Side,
    ) -> Result<Option<HostChunk<'s>>, Missing>
    where
        'a: 's,
    {
        let Piece::Mapped { space, va, .. } = piece else { return Ok(None) };
        if !space.is_bound() {
            return Ok(None);
        }
        // The bound keeps the length inside any pointer width and one page walk's worth of use.
        let want = len.min(1 << 30) as usize;
        self.translator
            .translate(self.burst, &space.table, *va, want, access)
            .map(Some)
            .map_err(|fault| missing(piece, *va, access, side, fault))
    }
}

/// A page of a piece that is missing.
fn missing(piece: &Piece<'_>, va: Gva, access: Access, side: Side, fault: Fault) -> Missing {
    let limit = match *piece {
        Piece::Mapped { limit, .. } => limit,
        Piece::Held(_) | Piece::Room { .. } => va,
    };
    // One byte: the rest of the page is the next step's affair.
    Missing { side, va, len: 1, limit, access, recoverable: fault.is_recoverable() }
}
