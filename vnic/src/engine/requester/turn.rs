// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One turn of a queue pair: looks whether its wait is over, works, and waits for what was missing.
//!
//! What happens here is outside bursts: it may take locks and make system calls.

use super::{Pause, Requester, Step};
use crate::engine::core::Core;
use crate::engine::responder::Sender;
use crate::engine::timer::Half;
use crate::engine::wait::{MAX_PAGE_TRIES, Over, PageWait, Reason, Refusal, Side, Wait, Word};
use crate::fabric::ahead::Needed;
use crate::fabric::direct::receive;
use crate::fabric::local::Missing;
use crate::object::qp::Qp;
use crate::object::space::Space;
use crate::ring::sq::Next;
use crate::session::Session;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vnic_abi::ctrl::QpState;
use vnic_iommu::addr::PAGE_SHIFT;
use vnic_iommu::fault::{Waiter, Wish};
use vnic_iommu::quiesce::full_fence;

impl Requester {
    /// Goes on unless it has to wait.
    fn turn(&mut self, qp: &Arc<Qp>, core: &mut Core) -> Step {
        let mut refused = None;
        let waited_for_page = matches!(self.wait, Wait::Page(_));
        let waited = !matches!(self.wait, Wait::Nothing);
        match self.wait.over(&qp.word, Instant::now) {
            Over::No => {
                self.look_again(qp, core);
                return Step::default();
            }
            Over::Yes => {}
            Over::Expired(reason) => self.count_retry(reason),
            Over::Refused(refusal) => refused = Some(refusal),
        }
        if waited_for_page {
            core.timers.cancel(qp, Half::Send);
            if let Some(Refusal::Late(_)) = refused
                && let Some(session) = self.asked.upgrade()
            {
                // Relaxed: statistics.
                session.late_pages.fetch_add(1, Ordering::Relaxed);
            }
            self.stop_waiting(qp.qpn);
        }
        if waited {
            self.forget_deadline();
        }
        let (pause, step) = self.work(qp, core, refused);
        match pause {
            Pause::Idle => {
                if qp.state() == QpState::Rts {
                    qp.set_next(self.ring.next(&qp.memory));
                }
                step
            }
            Pause::More => Step { more: true, ..step },
            Pause::Timer(delay, reason) => {
                // It waits for something else now.
                self.page_since = None;
                self.wait_until(qp, core, delay, reason);
                // A receive element may have come between the look and the wait.
                if let Some(peer) = self.peer.upgrade() {
                    // See `wake_sender`.
                    full_fence();
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

    /// The session and the address space on one side; `None` if the peer is gone.
    fn owner(&self, qp: &Qp, side: Side) -> Option<(Arc<Session>, Arc<Space>)> {
        match side {
            Side::Local => Some((qp.session.clone(), qp.pd.ctx.space.clone())),
            Side::Remote => {
                self.peer.upgrade().map(|peer| (peer.session.clone(), peer.pd.ctx.space.clone()))
            }
        }
    }

    /// Asks for the page, and for what else the request will miss, and waits for it.
    pub(super) fn wait_for_page(
        &mut self,
        qp: &Arc<Qp>,
        core: &mut Core,
        missing: Missing,
    ) -> Step {
        let step = self.ask_for_page(qp, core, missing);
        core.ahead.begin();
        step
    }

    fn ask_for_page(&mut self, qp: &Arc<Qp>, core: &mut Core, missing: Missing) -> Step {
        let Some((session, space)) = self.owner(qp, missing.side) else {
            return Step { cost: 0, more: true };
        };
        let Missing { side, va, len, limit, access, .. } = missing;
        let now = Instant::now();
        let since = *self.page_since.get_or_insert(now);
        let page = va.align_down(PAGE_SHIFT);
        let wait = core.device.next_wait();
        let mut page_wait = PageWait {
            wait,
            side,
            page,
            access,
            deadline: since + session.limits.page_timeout(),
            deferred: false,
        };
        self.wait = Wait::Page(page_wait);
        self.asked = Arc::downgrade(&session);
        if self.page_tries >= MAX_PAGE_TRIES {
            *qp.word.lock() = Some(Word::Pages { wait, denied: Some((page, access)) });
            return Step { cost: 0, more: true };
        }
        self.page_tries += 1;
        *qp.word.lock() = None;
        let needed = Needed { side, va, len, limit, access };
        let alone = core.ahead.is_alone(side, side);
        let wish = self.wish(qp, &session, &space, needed, alone);
        let asked = session.request_pages(wish, Waiter { who: qp.qpn, wait }, now);
        if asked {
            core.timers.at(page_wait.deadline, qp, Half::Send);
        } else {
            page_wait.deferred = true;
            self.wait = Wait::Page(page_wait);
            self.look_again(qp, core);
        }
        if !space.is_bound() {
            // An unbind that did not see the request cannot have cancelled it.
            core.timers.cancel(qp, Half::Send);
            self.stop_waiting(qp.qpn);
            return Step { cost: 0, more: true };
        }
        self.prefetch(qp, core, side, now);
        Step::default()
    }

    /// Asks for what the look ahead found beside the page that is waited for.
    fn prefetch(&mut self, qp: &Arc<Qp>, core: &Core, waits_on: Side, now: Instant) {
        for &needed in core.ahead.ranges() {
            let Some((session, space)) = self.owner(qp, needed.side) else { continue };
            if !space.is_bound() {
                continue;
            }
            let alone = core.ahead.is_alone(needed.side, waits_on);
            let wish = self.wish(qp, &session, &space, needed, alone);
            session.prefetch_pages(wish, now);
        }
    }

    /// What to ask for if `needed` is needed: more, if it is the only range on its side and requests
    /// come in order.
    fn wish(
        &mut self,
        qp: &Qp,
        session: &Session,
        space: &Space,
        needed: Needed,
        alone: bool,
    ) -> Wish {
        let Needed { side, va, len, limit, access } = needed;
        let [local, remote] = &mut **self.streams.get_or_insert_default();
        let stream = match side {
            Side::Local => local,
            Side::Remote => remote,
        };
        let asked = if alone {
            stream.ask(va, len, limit) - (va.0 - va.align_down(PAGE_SHIFT).0)
        } else {
            len
        };
        let pasid = space.table.pasid();
        Wish {
            claimant: session.claimant(&qp.session, pasid),
            pasid,
            va,
            len: asked.max(len),
            ahead: asked.saturating_sub(len),
            access,
        }
    }

    /// Has the time come for a wish that was deferred? If not, sets the timer for when it may.
    fn look_again(&mut self, qp: &Arc<Qp>, core: &mut Core) {
        let Wait::Page(wait) = self.wait else { return };
        if !wait.deferred {
            return;
        }
        let Some(session) = self.asked.upgrade() else { return };
        let next = session.send_deferred(Instant::now());
        let deferred = session.page_requests.lock().is_deferred(qp.qpn);
        self.wait = Wait::Page(PageWait { deferred, ..wait });
        match next {
            Some(next) if deferred => core.timers.at(next.min(wait.deadline), qp, Half::Send),
            _ => core.timers.at(wait.deadline, qp, Half::Send),
        }
        if next.is_some() && !deferred {
            // Whoever is next may have no timer.
            session.wake_next_deferred();
        }
    }

    pub(super) fn wait_until(
        &mut self,
        qp: &Arc<Qp>,
        core: &mut Core,
        delay: Duration,
        reason: Reason,
    ) {
        let time = Instant::now() + delay;
        self.wait = Wait::Until { time, reason };
        core.timers.at(time, qp, Half::Send);
    }
}

/// One turn of a queue pair.
pub fn run(core: &mut Core, qp: &Arc<Qp>) -> Step {
    let mut guard = qp.requester.lock();
    if qp.is_destroyed() {
        return Step::default();
    }
    if qp.is_direct() {
        // A doorbell may mean a receive.
        receive::post(qp, &mut qp.responder.lock(), &mut core.later);
    } else {
        wake_sender(qp);
    }
    let this = &mut *guard;
    qp.set_next(Next::UNKNOWN);
    let step = match qp.state() {
        QpState::Err => this.flush(qp, core),
        QpState::Rts | QpState::Sqd => this.turn(qp, core),
        _ => Step::default(),
    };
    drop(guard);
    if let Some(failed) = core.completions.end_turn() {
        qp.send_cq.notify(failed);
    }
    core.later.flush(&core.device);
    step
}

/// A doorbell may mean a new receive element that a sender waits for.
///
/// Between whatever the caller did and the look at the flag there is a full fence, which pairs with another
/// such. The receiver's worker took the doorbell before and reads the flag behind; the sender's worker
/// set the flag before and looks at the ring behind. So either the former sees the flag or the latter the
/// element.
#[inline]
fn wake_sender(qp: &Arc<Qp>) {
    // Relaxed: ordered by the fence.
    if qp.sender_waits.load(Ordering::Relaxed) {
        wake_waiting_sender(qp);
    }
}

#[cold]
fn wake_waiting_sender(qp: &Arc<Qp>) {
    let mut responder = qp.responder.lock();
    if !responder.has_waiter() {
        qp.sender_waits.store(false, Ordering::Relaxed);
        return;
    }
    match responder.take_waiter(&qp.memory) {
        Some(Sender::Local(waiter)) => {
            drop(responder);
            qp.session.device.tell(waiter, Some(Word::Resume));
        }
        Some(Sender::Wire) => {
            if let Some(arrivals) = &mut responder.arrivals {
                arrivals.go_on();
            }
            drop(responder);
            qp.session.device.owe(qp);
        }
        None => {}
    }
}
