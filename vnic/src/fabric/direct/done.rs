// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Completions of the host's queue pairs become those of the guests'.

use super::nic::Done;
use super::queue::{Posted, Sent, State, WorkId};
use super::receive;
use super::watched::{Look, RECENT};
use crate::engine::core::Core;
use crate::engine::requester::{Requester, complete};
use crate::engine::responder::{enter_error, fail};
use crate::object::qp::Qp;
use arrayvec::ArrayVec;
use smallvec::SmallVec;
use std::sync::{Arc, Weak};
use vnic_abi::cqe::{Cqe, CqeFlags, WcOpcode, WcStatus};
use vnic_abi::ctrl::{QpAttr, QpAttrMask, QpState};
use vnic_abi::event::EventKind;

/// A pass over the queue pairs of the worker that go this way. `each` gets those that may go on. `true` if anything was
/// done.
pub fn poll(core: &mut Core, mut each: impl FnMut(&Arc<Qp>)) -> bool {
    let mut watched = std::mem::take(&mut core.direct);
    let mut busy = false;
    watched.pass(|qp| {
        let look = look(core, qp);
        if look == Look::Something {
            busy = true;
            each(qp);
        }
        look
    });
    // In its place is what was noted meanwhile.
    let meanwhile = std::mem::replace(&mut core.direct, watched);
    meanwhile.iter().for_each(|qp| core.direct.add(qp.clone()));
    busy
}

fn look(core: &mut Core, qp: &Arc<Qp>) -> Look {
    let Some(direct) = qp.direct.as_deref().filter(|direct| direct.is_chosen()) else {
        return Look::Gone;
    };
    let mut found: SmallVec<[Done; 16]> = SmallVec::new();
    let lost = {
        let state = direct.lock();
        let Some(host) = &state.host else { return Look::Gone };
        let is_lost = direct.nic().is_lost();
        // One that has nothing under way learns of a loss as well, once.
        let untold = is_lost && !state.stopped;
        if !(state.is_busy() || untold) {
            return Look::Nothing;
        }
        let polled = host.poll(&mut |done| found.push(done));
        polled.is_err() || (is_lost && found.is_empty())
    };
    if found.is_empty() && !lost {
        return Look::Nothing;
    }
    take(core, qp, &found, lost);
    Look::Something
}

/// Tells the guest what was found, and if the device is lost, that nothing else will come.
fn take(core: &mut Core, qp: &Arc<Qp>, found: &[Done], lost: bool) {
    {
        let mut requester = qp.requester.lock();
        if qp.is_destroyed() {
            return;
        }
        let mut responder = qp.responder.lock();
        for done in found {
            let id = WorkId::of_bits(done.id);
            if id.receive {
                received(core, qp, id, done);
            } else {
                sent(core, qp, &mut requester, id, done);
            }
        }
        if lost {
            lose(core, qp, &mut requester);
        }
        Requester::publish(qp, core);
        if qp.state() != QpState::Err {
            receive::post(qp, &mut responder, &mut core.later);
        }
    }
    if let Some(failed) = core.completions.end_turn() {
        qp.send_cq.notify(failed);
    }
    core.later.flush(&core.device);
}

/// Send requests up to `id` are done, and it ended as `done` says.
fn sent(core: &mut Core, qp: &Arc<Qp>, requester: &mut Requester, id: WorkId, done: &Done) {
    while let Some(request) = next_sent(qp, id) {
        let last = request.number == id.number;
        requester.progress();
        let status = if last { done.status } else { WcStatus::Success };
        finish(core, qp, &request, status);
    }
}

/// The oldest request under way, if it is `id` or one before.
fn next_sent(qp: &Qp, id: WorkId) -> Option<Sent> {
    let mut state = qp.direct.as_deref()?.lock();
    let oldest = state.sends.front()?;
    // Of before a reset, or of nobody: the host is trusted to count, and held to it all the same.
    let ahead = id.number.wrapping_sub(oldest.number);
    if id.life != state.life || ahead as usize >= state.sends.len() {
        return None;
    }
    state.sends.pop_front()
}

fn finish(core: &mut Core, qp: &Arc<Qp>, request: &Sent, status: WcStatus) {
    let &Sent { wr_id, opcode, total, signaled, count, .. } = request;
    if status != WcStatus::Success || signaled {
        complete(qp, core, count, wr_id, opcode, status, total);
    }
}

fn received(core: &mut Core, qp: &Arc<Qp>, id: WorkId, done: &Done) {
    let Some(posted) = next_received(qp, id) else { return };
    publish_receive(core, qp, &posted, done);
    if done.status != WcStatus::Success {
        enter_error(qp, &mut core.later);
    }
}

fn next_received(qp: &Qp, id: WorkId) -> Option<Posted> {
    let mut state = qp.direct.as_deref()?.lock();
    let oldest = state.receives.front()?;
    if id.life != state.life || id.number != oldest.number {
        return None;
    }
    state.receives.pop_front()
}

fn publish_receive(core: &mut Core, qp: &Arc<Qp>, posted: &Posted, done: &Done) {
    let mut cqe = Cqe {
        wr_id: posted.wr_id.into(),
        qpn: qp.qpn.into(),
        wqe_count: posted.count.into(),
        opcode: WcOpcode::Recv.0,
        status: done.status.0,
        ..Cqe::default()
    };
    if done.status == WcStatus::Success {
        cqe.opcode = done.opcode.0;
        cqe.byte_len = done.bytes.into();
        if let Some(imm) = done.imm {
            cqe.imm = imm;
            cqe.flags = CqeFlags::WITH_IMM.bits();
        }
    }
    let published = qp.recv_cq.publish(&[cqe.into()]);
    // The host does not tell which are solicited.
    core.later.notify(&qp.recv_cq, true);
    if published.is_err() {
        fail(qp, EventKind::QpFatal, &mut core.later);
    }
}

/// The device is gone: what is under way ends here.
fn lose(core: &mut Core, qp: &Arc<Qp>, requester: &mut Requester) {
    fail(qp, EventKind::QpFatal, &mut core.later);
    let (sends, receives) = {
        let Some(direct) = qp.direct.as_deref() else { return };
        let mut state = direct.lock();
        state.stopped = true;
        (std::mem::take(&mut state.sends), std::mem::take(&mut state.receives))
    };
    for (index, request) in sends.iter().enumerate() {
        requester.progress();
        let status = if index == 0 { WcStatus::FatalErr } else { WcStatus::WrFlushErr };
        finish(core, qp, request, status);
    }
    let (status, opcode) = (WcStatus::WrFlushErr, WcOpcode::Recv);
    let flushed = Done { id: 0, status, opcode, bytes: 0, imm: None };
    for posted in &receives {
        publish_receive(core, qp, posted, &flushed);
    }
}

impl State {
    /// Puts the host's queue pair into error, once: then everything under way completes.
    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let Some(host) = &self.host else { return };
        if let Err(error) = host.modify(QpState::Err, QpAttrMask::STATE, &QpAttr::default(), 0) {
            tracing::warn!(%error, "cannot stop a queue pair of the host");
        }
    }
}

/// The guest's queue pair is in error. Whether everything is done that the host had.
pub fn has_flushed(core: &mut Core, qp: &Arc<Qp>) -> bool {
    let Some(direct) = qp.direct.as_deref().filter(|direct| direct.is_chosen()) else {
        return true;
    };
    let failed = {
        let mut state = direct.lock();
        state.stop();
        if state.is_busy() {
            return false;
        }
        state.failed.take()
    };
    if let Some((failed, count)) = failed {
        complete(qp, core, count, failed.wr_id, failed.opcode, WcStatus::WrFlushErr, 0);
    }
    true
}

/// Before the worker sleeps: has completions end the sleep. `true` if there may be some already, and everything has to be
/// looked at once more.
pub fn arm(core: &mut Core) -> bool {
    let mut new = false;
    for direct in core.direct.iter().filter_map(|qp| qp.direct.as_deref()) {
        let mut state = direct.lock();
        if state.is_busy() && !std::mem::replace(&mut state.armed, true) {
            if let Some(host) = &state.host {
                host.arm();
            }
            new = true;
        }
    }
    if new {
        core.direct.look_at_all();
    }
    new
}

/// After the sleep: those of which a device has told are not armed any more, and are looked at first.
pub fn acknowledge(core: &mut Core) {
    let mut told = ArrayVec::<Arc<Qp>, RECENT>::new();
    let mut any = false;
    for nic in &core.nics {
        nic.take_events(core.worker, &mut |qpn| {
            let Some(qp) = core.device.qpns().read().get(&qpn).and_then(Weak::upgrade) else {
                return;
            };
            if let Some(direct) = qp.direct.as_deref() {
                direct.lock().armed = false;
                any |= told.try_push(qp).is_err();
            }
        });
        // Then each of its queue pairs has something to learn.
        any |= nic.is_lost();
    }
    told.iter().for_each(|qp| core.direct.note(qp));
    if any {
        core.direct.look_at_all();
    }
}
