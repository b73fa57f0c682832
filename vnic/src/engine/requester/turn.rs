// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One turn of a queue pair: looks whether its wait is over, works, and waits for what was missing.
//!
//! What happens here is outside bursts: it may take locks and make system calls.

use super::{Pause, Requester, Step};
use crate::engine::core::Core;
use crate::engine::wait::{Over, PageAnswer, Reason, Side, Wait};
use crate::fabric::local::Missing;
use crate::object::qp::Qp;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use vnic_abi::ctrl::QpState;
use vnic_iommu::addr::{Gva, PAGE_SIZE};

/// Page requests in a row for one request without a byte of progress, before its pages count as not
/// to be had: a guest that says yes and does nothing would go on for ever.
const MAX_PAGE_TRIES: u32 = 10_000;
/// Pause after the guest's table of page requests was full.
const PAGE_PAUSE: Duration = Duration::from_micros(500);

impl Requester {
    /// Goes on unless it has to wait.
    fn turn(&mut self, qp: &Arc<Qp>, core: &mut Core) -> Step {
        let mut denied = None;
        match self.wait.over(&qp.page_answer, Instant::now) {
            Over::No => return Step::default(),
            Over::Yes => {}
            Over::Expired(reason) => self.count_retry(reason),
            Over::Denied(side) => denied = Some(side),
        }
        let (pause, step) = self.work(qp, core, denied);
        match pause {
            Pause::Idle => step,
            Pause::More => Step { more: true, ..step },
            Pause::Timer(delay, reason) => {
                self.wait_until(qp, core, delay, reason);
                // A receive element may have come between the look and the wait.
                if let Some(peer) = self.peer.upgrade() {
                    wake_sender(&peer);
                }
                step
            }
            Pause::Missing(missing) => {
                let waiting = self.wait_for_page(qp, core, missing);
                Step { more: waiting.more, ..step }
            }
        }
    }

    /// Asks for the page and waits for it.
    fn wait_for_page(&mut self, qp: &Arc<Qp>, core: &mut Core, missing: Missing) -> Step {
        let asked = match missing.side {
            Side::Local => Some((qp.session.clone(), qp.pd.ctx.space.clone())),
            Side::Remote => {
                self.peer.upgrade().map(|peer| (peer.session.clone(), peer.pd.ctx.space.clone()))
            }
        };
        let Some((session, space)) = asked else { return Step { cost: 0, more: true } };
        let page = page_of(missing.va);
        self.wait = Wait::Page { side: missing.side, page };
        if self.page_tries >= MAX_PAGE_TRIES {
            *qp.page_answer.lock() = Some(PageAnswer { denied: Some(page) });
            return Step { cost: 0, more: true };
        }
        *qp.page_answer.lock() = None;
        let (pasid, waiter) = (space.table.pasid(), u64::from(qp.qpn));
        if !session.request_pages(pasid, missing.va, missing.len, missing.access, waiter) {
            // Nobody was asked, so this is no try.
            self.wait_until(qp, core, PAGE_PAUSE, Reason::Pages);
            return Step::default();
        }
        self.page_tries += 1;
        if !space.is_bound() {
            // An unbind that did not see the request cannot have cancelled it.
            self.wait = Wait::Nothing;
            return Step { cost: 0, more: true };
        }
        Step::default()
    }

    fn wait_until(&mut self, qp: &Arc<Qp>, core: &mut Core, delay: Duration, reason: Reason) {
        let time = Instant::now() + delay;
        self.wait = Wait::Until { time, reason };
        core.timers.at(time, qp);
    }
}

fn page_of(va: Gva) -> Gva {
    Gva(va.0 & !(PAGE_SIZE - 1))
}

/// One turn of a queue pair.
pub fn run(core: &mut Core, qp: &Arc<Qp>) -> Step {
    let mut guard = qp.requester.lock();
    if qp.is_destroyed() {
        return Step::default();
    }
    wake_sender(qp);
    let this = &mut *guard;
    let step = match qp.state() {
        QpState::Err => this.flush(qp, core),
        QpState::Rts | QpState::Sqd => this.turn(qp, core),
        _ => Step::default(),
    };
    drop(guard);
    qp.send_cq.notify(&*qp.session.up);
    core.later.flush(&core.device);
    step
}

/// A doorbell may mean a new receive element that a sender waits for.
fn wake_sender(qp: &Arc<Qp>) {
    // SeqCst: pairs with itself. The receiver's worker took the doorbell before and reads the flag
    // behind; the sender's worker set the flag before and looks at the ring behind. So either the
    // former sees the flag or the latter the element.
    fence(Ordering::SeqCst);
    // Relaxed: ordered by the fence.
    if !qp.sender_waits.load(Ordering::Relaxed) {
        return;
    }
    let mut responder = qp.responder.lock();
    if !responder.has_waiter() {
        qp.sender_waits.store(false, Ordering::Relaxed);
        return;
    }
    if let Some(waiter) = responder.take_waiter(&qp.memory) {
        drop(responder);
        qp.session.device.resume_all(vec![u64::from(waiter)]);
    }
}
