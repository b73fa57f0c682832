// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Half of a transfer: one end is a guest's memory, the other a frame.

use crate::engine::request::{Atomic, LocalBytes, Op, Remote, SendRequest};
use crate::engine::responder::{Nak, Responder, Sender};
use crate::engine::wait::Side;
use crate::fabric::bytes::{Bytes, check_list};
use crate::fabric::local::{Advance, Stop, Transfer};
use crate::object::mr::KeyCache;
use crate::object::qp::Qp;
use std::sync::Arc;
use vnic_abi::cqe::WcStatus;
use vnic_abi::ctrl::AccessFlags;

impl Transfer<'_, '_> {
    /// At the responder: carries out part of a SEND or WRITE whose `bytes` begin `done` bytes into the message. The
    /// budget is their number.
    pub fn arrive(
        &mut self,
        request: &SendRequest,
        bytes: &[u8],
        qp: &Arc<Qp>,
        responder: &mut Responder,
        done: &mut u64,
    ) -> Advance {
        let held = Bytes::Held { bytes, first: *done };
        match request.op {
            Op::Send => self.send(Sender::Wire, request, held, qp, responder, done),
            Op::Write(remote) => {
                self.write(Sender::Wire, request, held, remote, qp, responder, done)
            }
            // Those have no bytes.
            Op::Read(_) | Op::Atomic(..) => Advance::Nak(Nak::InvalidRequest),
        }
    }

    /// At the responder: fills `room` with what a READ of `total` bytes asked for, from `at` on. [`Advance::Done`] if
    /// it is full.
    pub fn read_into(
        &mut self,
        room: &mut [u8],
        remote: Remote,
        total: u64,
        at: &mut u64,
        qp: &Arc<Qp>,
        responder: &mut Responder,
    ) -> Advance {
        let right = AccessFlags::REMOTE_READ;
        let target = match responder.rdma_target(qp, remote, total, right, self.later) {
            Ok(target) => target,
            Err(nak) => return Advance::Nak(nak),
        };
        let room = Bytes::Room { room, first: *at };
        match self.copy(Bytes::Range(target), room, Side::Local, total, at) {
            Ok(_) => Advance::Done,
            Err(stop) => self.rdma_stop(stop, qp),
        }
    }

    /// At the responder: carries out an atomic, and says what was there before.
    ///
    /// # Errors
    ///
    /// What became of it instead.
    pub fn atomic_word(
        &mut self,
        remote: Remote,
        op: Atomic,
        qp: &Arc<Qp>,
        responder: &mut Responder,
    ) -> Result<u64, Advance> {
        let mut former = [0; 8];
        let room = Bytes::Room { room: &mut former, first: 0 };
        match self.atomic(room, remote, op, qp, responder) {
            Advance::Done => Ok(u64::from_ne_bytes(former)),
            other => Err(other),
        }
    }

    /// At the requester: fills `room` with bytes of the message, from `done` on. [`Advance::Done`] if it is full.
    pub fn gather(
        &mut self,
        room: &mut [u8],
        qp: &Arc<Qp>,
        local: LocalBytes<'_>,
        total: u64,
        keys: &mut KeyCache,
        done: &mut u64,
    ) -> Advance {
        let from = own(qp, local, keys, AccessFlags::empty());
        let room = Bytes::Room { room, first: *done };
        match self.copy(from, room, Side::Remote, total, done) {
            Ok(_) => Advance::Done,
            Err(stop) => own_stop(stop),
        }
    }

    /// At the requester: puts `bytes`, which begin `done` bytes into the message, where the request wants them.
    pub fn scatter(
        &mut self,
        bytes: &[u8],
        qp: &Arc<Qp>,
        local: LocalBytes<'_>,
        total: u64,
        keys: &mut KeyCache,
        done: &mut u64,
    ) -> Advance {
        let to = own(qp, local, keys, AccessFlags::LOCAL_WRITE);
        let held = Bytes::Held { bytes, first: *done };
        match self.copy(held, to, Side::Local, total, done) {
            Ok(_) => Advance::Done,
            Err(stop) => own_stop(stop),
        }
    }
}

/// Whether the keys of a request's own list allow what the request does with it.
pub fn own_keys_allow(
    qp: &Qp,
    request: &SendRequest,
    local: LocalBytes<'_>,
    keys: &mut KeyCache,
) -> bool {
    let right = match request.op {
        Op::Read(_) | Op::Atomic(..) => AccessFlags::LOCAL_WRITE,
        Op::Send | Op::Write(_) => AccessFlags::empty(),
    };
    match local {
        LocalBytes::Inline(_) => true,
        LocalBytes::List(list) => check_list(qp, list, keys, right),
    }
}

/// The requester's own bytes.
fn own<'a>(
    qp: &'a Qp,
    local: LocalBytes<'a>,
    keys: &'a mut KeyCache,
    right: AccessFlags,
) -> Bytes<'a> {
    match local {
        LocalBytes::Inline(bytes) => Bytes::Held { bytes, first: 0 },
        LocalBytes::List(list) => Bytes::List { qp, list, keys, right },
    }
}

/// The frame's end has no pages and no keys: whatever stopped the copy is the requester's.
fn own_stop(stop: Stop) -> Advance {
    match stop {
        Stop::Page(missing) => Advance::Missing(missing),
        Stop::Key(_) => Advance::Failed(WcStatus::LocProtErr),
    }
}
