// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What arrives from another daemon is carried out.

use crate::engine::core::Core;
use crate::engine::request::{Atomic, Local, Op, Remote, SendRequest};
use crate::engine::responder::Responder;
use crate::fabric::local::{Advance, Transfer};
use crate::fabric::relay::arrivals::{Admit, Arrivals, Job, MOST_JOBS};
use crate::fabric::relay::waiting;
use crate::object::qp::Qp;
use crate::wire::frame::{Refusal, Request};
use crate::wire::link::Link;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use vnic_abi::ctrl::{AccessFlags, QpState};

/// Carries out a request that arrived by `lane` of `link`. Returns the queue pair that owes something and is in no
/// line yet.
pub fn arrived(
    core: &mut Core,
    link: &Arc<Link>,
    lane: usize,
    request: &Request<'_>,
) -> Option<Arc<Qp>> {
    let qp = core.device.qpns().read().get(&request.to_qpn).and_then(Weak::upgrade)?;
    let owes = {
        let mut responder = qp.responder.lock();
        if qp.is_destroyed() || !receives(&qp) {
            return None;
        }
        let mut arrivals = known(core, link, lane, &qp, &mut responder, request)?;
        carry_out(core, &qp, &mut responder, &mut arrivals, request);
        let owes = arrivals.owes() && !std::mem::replace(&mut arrivals.listed, true);
        // A queue pair that went into error meanwhile still tells why.
        responder.arrivals = Some(arrivals);
        owes
    };
    core.later.flush(&core.device);
    owes.then_some(qp)
}

/// Takes what is remembered of the requester, if it is the peer of `qp`. Nobody else is answered: to a stranger there is
/// no such queue pair.
fn known(
    core: &mut Core,
    link: &Arc<Link>,
    lane: usize,
    qp: &Arc<Qp>,
    responder: &mut Responder,
    request: &Request<'_>,
) -> Option<Box<Arrivals>> {
    let same = |arrivals: &Arrivals| arrivals.is_of(link, lane, qp, request);
    if responder.arrivals.as_deref().is_some_and(same) {
        return responder.arrivals.take();
    }
    let attr = qp.attr();
    let network = &qp.session.network;
    let is_peer = attr.dest_qpn.get() == request.from_qpn
        && link.allows(network)
        && link.port(network, &attr.av.dgid).is_some()
        && request.to_port == qp.session.port_number();
    if !is_peer {
        return None;
    }
    // Relaxed: whoever tells the responder something finds it by the old worker, too late for nothing.
    qp.arrives_at.store(lane % core.device.config().workers, Ordering::Relaxed);
    let old = responder.arrivals.take();
    if let Some(mut old) = old {
        waiting::forget(&mut old, qp);
        if old.came_back(link, lane, qp, request) {
            return Some(old);
        }
    }
    Some(Box::new(Arrivals::new(link, lane, qp, request)))
}

/// Whether messages reach a queue pair in its state.
fn receives(qp: &Qp) -> bool {
    matches!(qp.state(), QpState::Rtr | QpState::Rts | QpState::Sqd)
}

fn carry_out(
    core: &mut Core,
    qp: &Arc<Qp>,
    responder: &mut Responder,
    arrivals: &mut Arrivals,
    request: &Request<'_>,
) {
    let sends = matches!(request.op, Op::Send | Op::Write(_));
    let offset = if sends { request.offset.into() } else { 0 };
    match arrivals.admit(request.seq, offset) {
        Admit::Drop => return,
        Admit::Again => return again(arrivals, request),
        Admit::Now => {}
    }
    match request.op {
        Op::Read(remote) => read(core, qp, responder, arrivals, remote, request),
        Op::Atomic(remote, op) => atomic(core, qp, responder, arrivals, remote, op),
        Op::Send | Op::Write(_) => receive(core, qp, responder, arrivals, request),
    }
}

/// A request that was carried out before, of a requester that did not get the answer.
fn again(arrivals: &mut Arrivals, request: &Request<'_>) {
    let seq = request.seq;
    match request.op {
        Op::Send | Op::Write(_) => {
            arrivals.offset += request.bytes.len() as u64;
            if arrivals.offset < request.total.into() {
                return;
            }
        }
        Op::Read(remote) => {
            let (total, at) = (request.total.into(), request.offset.into());
            if arrivals.jobs.len() >= MOST_JOBS {
                return arrivals.refuse(Refusal::InvalidRequest);
            }
            arrivals.jobs.push_back(Job::Read { seq, remote, total, at });
        }
        Op::Atomic(..) => match arrivals.former() {
            Some(word) if arrivals.jobs.len() < MOST_JOBS => {
                arrivals.jobs.push_back(Job::Former { seq, word });
            }
            // So long ago that nobody knows any more.
            _ => return arrivals.refuse(Refusal::RemoteOperation),
        },
    }
    arrivals.finish();
}

fn read(
    core: &mut Core,
    qp: &Arc<Qp>,
    responder: &mut Responder,
    arrivals: &mut Arrivals,
    remote: Remote,
    request: &Request<'_>,
) {
    let (total, at) = (request.total.into(), request.offset.into());
    let right = AccessFlags::REMOTE_READ;
    if arrivals.jobs.len() >= MOST_JOBS {
        return arrivals.refuse(Refusal::InvalidRequest);
    }
    if total != 0
        && let Err(nak) = responder.rdma_target(qp, remote, total, right, &mut core.later)
    {
        return arrivals.nak(nak);
    }
    arrivals.jobs.push_back(Job::Read { seq: request.seq, remote, total, at });
    arrivals.finish();
}

fn atomic(
    core: &mut Core,
    qp: &Arc<Qp>,
    responder: &mut Responder,
    arrivals: &mut Arrivals,
    remote: Remote,
    op: Atomic,
) {
    if arrivals.jobs.len() >= MOST_JOBS {
        return arrivals.refuse(Refusal::InvalidRequest);
    }
    let advance = with_transfer(core, qp, 8, 8, |transfer| {
        match transfer.atomic_word(remote, op, qp, responder) {
            Ok(word) => Ok(word),
            Err(Advance::Missing(missing)) if !missing.recoverable => {
                Err(transfer.refuse_page(&placeholder(Op::Atomic(remote, op), 8), qp, responder))
            }
            Err(other) => Err(other),
        }
    });
    match advance {
        Some(Ok(word)) => {
            arrivals.keep_former(word);
            arrivals.jobs.push_back(Job::Former { seq: arrivals.next, word });
            arrivals.finish();
        }
        Some(Err(advance)) => stop(core, qp, arrivals, advance),
        None => {}
    }
}

fn receive(
    core: &mut Core,
    qp: &Arc<Qp>,
    responder: &mut Responder,
    arrivals: &mut Arrivals,
    request: &Request<'_>,
) {
    let whole = SendRequest {
        imm: request.imm,
        solicited: request.solicited,
        ..placeholder(request.op, request.total.into())
    };
    let (before, budget) = (arrivals.offset, request.bytes.len() as u64);
    let advance = with_transfer(core, qp, whole.total, budget, |transfer| {
        let offset = &mut arrivals.offset;
        match transfer.arrive(&whole, request.bytes, qp, responder, offset) {
            Advance::Missing(missing) if !missing.recoverable => {
                transfer.refuse_page(&whole, qp, responder)
            }
            other => other,
        }
    });
    if arrivals.offset != before {
        arrivals.progress();
    }
    match advance {
        Some(Advance::Done) => arrivals.finish(),
        Some(advance) => stop(core, qp, arrivals, advance),
        None => {}
    }
}

/// Why a request is not finished.
fn stop(core: &mut Core, qp: &Arc<Qp>, arrivals: &mut Arrivals, advance: Advance) {
    match advance {
        Advance::Done | Advance::More => {}
        Advance::Missing(missing) => waiting::for_page(core, qp, arrivals, missing),
        Advance::Nak(nak) => arrivals.nak(nak),
        Advance::Failed(_) => arrivals.refuse(Refusal::RemoteOperation),
    }
}

/// A request of which only this is known.
pub fn placeholder(op: Op, total: u64) -> SendRequest {
    SendRequest {
        wr_id: 0,
        op,
        imm: None,
        signaled: false,
        solicited: false,
        fenced: false,
        local: Local::Inline(0),
        total,
    }
}

/// Does something in a burst of one guest. `None` if its worker has no place in the guest's epoch page.
pub fn with_transfer<R>(
    core: &mut Core,
    qp: &Arc<Qp>,
    total: u64,
    budget: u64,
    what: impl FnOnce(&mut Transfer<'_, '_>) -> R,
) -> Option<R> {
    let slot = core.slots.of(&qp.session)?;
    let burst = slot.enter();
    let mut transfer = Transfer {
        burst: &burst,
        translator: &mut core.translator,
        later: &mut core.later,
        ahead: &mut core.ahead,
        scratch: &mut core.scratch,
        reach: core.reaches.of(total),
        budget,
        moved: 0,
    };
    Some(what(&mut transfer))
}
