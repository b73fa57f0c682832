// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Answers of a responder at another daemon.

use super::wire::{Ends, Sent};
use super::{Pause, Requester, complete};
use crate::engine::core::Core;
use crate::engine::request::{LocalBytes, SendRequest};
use crate::engine::responder::Nak;
use crate::engine::wait::Wait;
use crate::fabric::local::{Advance, Missing};
use crate::fabric::relay::responder::with_transfer;
use crate::object::qp::Qp;
use crate::wire::frame::{Answer, Refusal, What};
use crate::wire::link::Link;
use std::sync::{Arc, Weak};
use std::time::Duration;
use vnic_abi::cqe::WcStatus;
use vnic_abi::ctrl::QpState;

/// Takes an answer. Returns the queue pair that it is for, which may go on.
pub fn answered(core: &mut Core, link: &Link, answer: &Answer<'_>) -> Option<Arc<Qp>> {
    let qp = core.device.qpns().read().get(&answer.to_qpn).and_then(Weak::upgrade)?;
    {
        let mut requester = qp.requester.lock();
        if qp.is_destroyed() || !matches!(qp.state(), QpState::Rts | QpState::Sqd) {
            return None;
        }
        requester.take_answer(&qp, core, link, answer)?;
        Requester::publish(&qp, core);
    }
    if let Some(failed) = core.completions.end_turn() {
        qp.send_cq.notify(failed);
    }
    core.later.flush(&core.device);
    Some(qp)
}

/// The request has failed.
struct Gone;

impl Requester {
    /// `None` if the answer means nothing, as one to a question of long ago.
    fn take_answer(
        &mut self,
        qp: &Arc<Qp>,
        core: &mut Core,
        link: &Link,
        answer: &Answer<'_>,
    ) -> Option<()> {
        let current = self.in_hand();
        let wire = self.wire.as_mut()?;
        if wire.link.id != link.id || wire.connection != answer.connection {
            return None;
        }
        let index = answer.seq.wrapping_sub(wire.base);
        let under_way = wire.window.len() as u32;
        wire.paused = false;
        match answer.what {
            What::Ack if index < under_way => self.done_through(qp, core, index + 1),
            What::Paused if index < under_way + current => wire.paused = true,
            What::Resume(start) if index <= under_way => {
                self.done_through(qp, core, index);
                self.oldest_is(answer.seq)?;
                self.go_back(start.into());
                if matches!(self.wait, Wait::Until { .. }) {
                    self.wait = Wait::Nothing;
                }
            }
            What::Rnr(micros) if index < under_way + current => {
                self.done_through(qp, core, index);
                self.oldest_is(answer.seq)?;
                let delay = Duration::from_micros(micros.into());
                match self.status_of(Nak::Rnr(delay)) {
                    Ok(Pause::Timer(delay, reason)) => {
                        self.go_back(0);
                        self.wait_until(qp, core, delay, reason);
                    }
                    Ok(_) => {}
                    Err(status) => self.fail_oldest(qp, core, status),
                }
            }
            What::Refused(why) if index < under_way + current => {
                self.done_through(qp, core, index);
                self.oldest_is(answer.seq)?;
                self.fail_oldest(qp, core, status(why));
            }
            What::Data { offset, bytes } if index < under_way => {
                self.done_through(qp, core, index);
                self.oldest_is(answer.seq)?;
                self.data(qp, core, offset.into(), bytes)?;
            }
            What::Former(word) if index < under_way => {
                self.done_through(qp, core, index);
                self.oldest_is(answer.seq)?;
                self.former(qp, core, word)?;
            }
            // Of what was taken back meanwhile, or of a daemon that makes things up.
            _ => return None,
        }
        Some(())
    }

    /// Whether request `seq` is the oldest of which something is still missing. It is not if the peer left out the
    /// result of one before.
    fn oldest_is(&self, seq: u32) -> Option<()> {
        self.wire.as_ref().filter(|wire| wire.base == seq).map(|_| ())
    }

    /// The `count` oldest requests are done, as far as they have no result that did not come.
    fn done_through(&mut self, qp: &Arc<Qp>, core: &mut Core, count: u32) {
        for _ in 0..count {
            let ready = |sent: &Sent| sent.ends == Ends::Ack;
            let oldest = self.wire.as_ref().and_then(|wire| wire.window.front());
            if !oldest.is_some_and(ready) {
                return;
            }
            self.done(qp, core);
        }
    }

    /// The oldest request is done.
    fn done(&mut self, qp: &Arc<Qp>, core: &mut Core) {
        let behind = self.in_hand();
        let Some(wire) = &mut self.wire else { return };
        let Some(sent) = wire.window.pop_front() else { return };
        let behind = behind + wire.window.len() as u32;
        wire.base = wire.base.wrapping_add(1);
        wire.progressed = true;
        (wire.arrived, wire.element_of) = (0, None);
        if sent.ends != Ends::Ack {
            wire.reads -= 1;
        }
        qp.session.work.add(core.worker, 1, sent.total);
        self.progress();
        if sent.signaled || qp.sq_sig_all {
            let count = self.ring.consumed().wrapping_sub(behind);
            let Sent { wr_id, opcode, total, .. } = sent;
            complete(qp, core, count, wr_id, opcode, WcStatus::Success, total);
        }
    }

    /// Bytes of the oldest request, a READ.
    fn data(&mut self, qp: &Arc<Qp>, core: &mut Core, offset: u64, bytes: &[u8]) -> Option<()> {
        let wire = self.wire.as_ref()?;
        let oldest = *wire.window.front()?;
        let fits = wire.arrived + bytes.len() as u64 <= oldest.total;
        let empty = bytes.is_empty() && oldest.total != wire.arrived;
        if oldest.ends != Ends::Data || offset != wire.arrived || !fits || empty {
            return None;
        }
        let mut to = offset;
        let Ok(missing) = self.put(qp, core, oldest.total, bytes, &mut to) else { return Some(()) };
        if let Some(missing) = missing {
            // Nothing is kept for a page that is not there: the rest comes again.
            self.go_back(to);
            self.wait_for_page(qp, core, missing);
            return Some(());
        }
        let wire = self.wire.as_mut()?;
        wire.arrived = to;
        wire.progressed = true;
        if to == oldest.total {
            self.done(qp, core);
        }
        Some(())
    }

    /// The former word of the oldest request, an atomic.
    fn former(&mut self, qp: &Arc<Qp>, core: &mut Core, word: u64) -> Option<()> {
        let oldest = *self.wire.as_ref()?.window.front()?;
        if oldest.ends != Ends::Former {
            return None;
        }
        let mut to = 0;
        let word = word.to_ne_bytes();
        let Ok(missing) = self.put(qp, core, 8, &word, &mut to) else { return Some(()) };
        if let Some(missing) = missing {
            // The responder remembers the word.
            self.go_back(0);
            self.wait_for_page(qp, core, missing);
            return Some(());
        }
        self.done(qp, core);
        Some(())
    }

    /// Puts a result where the oldest request wants it. What is missing, if something is.
    ///
    /// # Errors
    ///
    /// The request has failed.
    fn put(
        &mut self,
        qp: &Arc<Qp>,
        core: &mut Core,
        total: u64,
        bytes: &[u8],
        to: &mut u64,
    ) -> Result<Option<Missing>, Gone> {
        let behind = self.in_hand();
        let Some(wire) = &mut self.wire else { return Err(Gone) };
        if wire.element_of != Some(wire.base) {
            let back = behind + wire.window.len() as u32;
            self.ring.take_again(&qp.memory, back, &mut wire.element);
            wire.element_of = Some(wire.base);
        }
        // A driver that changed it meanwhile may have made anything of it; whatever it is, its keys are checked.
        let local = match SendRequest::parse(&wire.element) {
            Ok(request) if request.total == total => request.local,
            _ => {
                self.fail_oldest(qp, core, WcStatus::LocQpOpErr);
                return Err(Gone);
            }
        };
        let local = local.of(&wire.element);
        let keys = &mut self.keys;
        let advance = match local {
            LocalBytes::Inline(_) => Some(Advance::Failed(WcStatus::LocQpOpErr)),
            LocalBytes::List(_) => with_transfer(core, qp, total, bytes.len() as u64, |transfer| {
                transfer.scatter(bytes, qp, local, total, keys, to)
            }),
        };
        match advance {
            Some(Advance::Done) => Ok(None),
            Some(Advance::Missing(missing)) if missing.recoverable => Ok(Some(missing)),
            _ => {
                self.fail_oldest(qp, core, WcStatus::LocProtErr);
                Err(Gone)
            }
        }
    }
}

/// What the completion says of a request that was refused.
const fn status(why: Refusal) -> WcStatus {
    match why {
        Refusal::InvalidRequest => WcStatus::RemInvReqErr,
        Refusal::RemoteAccess => WcStatus::RemAccessErr,
        Refusal::RemoteOperation => WcStatus::RemOpErr,
        // As from a responder that never answers.
        Refusal::Late => WcStatus::RetryExcErr,
    }
}
