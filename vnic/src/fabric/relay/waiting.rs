// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A responder that waits for a page of its guest, on behalf of a requester at another daemon.
//!
//! Nothing of the message is kept meanwhile: the requester is told that it waits, and later where to go on.

use crate::engine::core::Core;
use crate::engine::responder::{Responder, fail};
use crate::engine::timer::Half;
use crate::engine::wait::{MAX_PAGE_TRIES, Over, PageWait, Refusal as Refused, Side, Wait, Word};
use crate::fabric::ahead::Needed;
use crate::fabric::local::Missing;
use crate::fabric::relay::arrivals::{Arrivals, Say, State};
use crate::object::qp::Qp;
use crate::wire::frame::Refusal;
use std::sync::Arc;
use std::time::Instant;
use vnic_abi::cqe::WcStatus;
use vnic_abi::event::EventKind;
use vnic_iommu::addr::PAGE_SHIFT;
use vnic_iommu::fault::{Claimant, Waiter, Wish};

/// Marks the receiving half of a queue pair among those who wait for pages, which are named by numbers of 24 bits.
pub const RECEIVER: u32 = 1 << 31;

/// Who waits, as far as the table of page requests knows.
const fn waiter(qp: &Qp) -> u32 {
    qp.qpn | RECEIVER
}

/// Asks for a page, and has the requester wait.
pub fn for_page(core: &mut Core, qp: &Arc<Qp>, arrivals: &mut Arrivals, missing: Missing) {
    (arrivals.state, arrivals.say) = (State::Waiting, Some(Say::Paused));
    // One page at a time; whoever comes later tries again when that one is there.
    if !matches!(arrivals.wait, Wait::Page(_)) {
        ask(core, qp, arrivals, missing);
    }
    core.ahead.begin();
}

fn ask(core: &mut Core, qp: &Arc<Qp>, arrivals: &mut Arrivals, missing: Missing) {
    let (session, space) = (&qp.session, &qp.pd.ctx.space);
    let Missing { va, len, access, limit, .. } = missing;
    let now = Instant::now();
    let since = *arrivals.page_since.get_or_insert(now);
    let (page, wait) = (va.align_down(PAGE_SHIFT), core.device.next_wait());
    let deadline = since + session.limits.page_timeout();
    let page_wait = PageWait { wait, side: Side::Remote, page, access, deadline, deferred: false };
    arrivals.wait = Wait::Page(page_wait);
    *qp.arrival_word.lock() = None;
    arrivals.page_tries += 1;
    if arrivals.page_tries > MAX_PAGE_TRIES {
        *qp.arrival_word.lock() = Some(Word::Pages { wait, denied: Some((page, access)) });
        return core.owe(qp);
    }
    let pasid = space.table.pasid();
    // Guests of one peer daemon share a claim.
    let claimant = Claimant::Foreign(1 << 63 | arrivals.link.id);
    let alone = core.ahead.is_alone(Side::Remote, Side::Remote);
    let more = if alone { arrivals.stream.ask(va, len, limit) - (va.0 - page.0) } else { len };
    let ahead = more.saturating_sub(len);
    let wish = Wish { claimant, pasid, va, len: more.max(len), ahead, access };
    let asked = session.request_pages(wish, Waiter { who: waiter(qp), wait }, now);
    core.timers.at(page_wait.deadline, qp, Half::Receive);
    if !asked {
        arrivals.wait = Wait::Page(PageWait { deferred: true, ..page_wait });
        look_again(core, qp, arrivals);
    }
    if !space.is_bound() {
        // An unbind that did not see the request cannot have cancelled it.
        *qp.arrival_word.lock() = Some(Word::Resume);
        return core.owe(qp);
    }
    for needed in core.ahead.ranges() {
        if needed.side == Side::Remote {
            let &Needed { va, len, access, .. } = needed;
            let wish = Wish { va, len, ahead: 0, access, ..wish };
            session.prefetch_pages(wish, now);
        }
    }
}

/// Has the time come for a wish that was deferred? If not, sets the timer for when it may.
fn look_again(core: &mut Core, qp: &Arc<Qp>, arrivals: &mut Arrivals) {
    let Wait::Page(wait) = arrivals.wait else { return };
    if !wait.deferred {
        return;
    }
    let session = &qp.session;
    let next = session.send_deferred(Instant::now());
    let deferred = session.page_requests.lock().is_deferred(waiter(qp));
    arrivals.wait = Wait::Page(PageWait { deferred, ..wait });
    match next {
        Some(next) if deferred => core.timers.at(next.min(wait.deadline), qp, Half::Receive),
        _ => core.timers.at(wait.deadline, qp, Half::Receive),
    }
    if next.is_some() && !deferred {
        // Whoever is next may have no timer.
        session.wake_next_deferred();
    }
}

/// Looks whether the page has come.
pub fn look(core: &mut Core, qp: &Arc<Qp>, responder: &mut Responder, arrivals: &mut Arrivals) {
    if !matches!(arrivals.wait, Wait::Page(_)) {
        return;
    }
    let over = arrivals.wait.over(&qp.arrival_word, Instant::now);
    if over == Over::No {
        return look_again(core, qp, arrivals);
    }
    core.timers.cancel(qp, Half::Receive);
    qp.session.forget_page_waiter(waiter(qp));
    match over {
        Over::Refused(Refused::Denied(_)) => refuse(core, qp, responder, arrivals),
        Over::Refused(Refused::Late(_)) => {
            give_up_jobs(arrivals);
            arrivals.refuse(Refusal::Late);
        }
        Over::No | Over::Yes | Over::Expired(_) => {
            (arrivals.state, arrivals.say) = (State::Asked, Some(Say::Resume));
        }
    }
}

/// The guest cannot provide the page.
fn refuse(core: &mut Core, qp: &Arc<Qp>, responder: &mut Responder, arrivals: &mut Arrivals) {
    if arrivals.jobs.is_empty() && responder.receiving.is_some() {
        responder.fail_receive(qp, WcStatus::LocProtErr, &mut core.later);
        return arrivals.refuse(Refusal::RemoteOperation);
    }
    give_up_jobs(arrivals);
    fail(qp, EventKind::QpAccessError, &mut core.later);
    arrivals.refuse(Refusal::RemoteAccess);
}

/// It is the first job that is refused, if there is one, and nothing behind it counts.
pub fn give_up_jobs(arrivals: &mut Arrivals) {
    if let Some(job) = arrivals.jobs.front() {
        arrivals.next = job.seq();
        arrivals.jobs.clear();
    }
}

/// The queue pair begins anew, or goes.
pub fn stop(responder: &mut Responder, qp: &Qp) {
    if let Some(mut arrivals) = responder.arrivals.take() {
        forget(&mut arrivals, qp);
    }
}

/// It waits no more; what it waited for is asked for again if it is needed again.
pub fn forget(arrivals: &mut Arrivals, qp: &Qp) {
    if matches!(arrivals.wait, Wait::Page(_)) {
        arrivals.wait = Wait::Nothing;
        arrivals.state = State::Asked;
        qp.session.forget_page_waiter(waiter(qp));
    }
}
