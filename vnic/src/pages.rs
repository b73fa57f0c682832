// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A session's page requests: asking the guest, within its budget, and taking its answers.

use crate::session::Session;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::time::Instant;
use vnic_abi::event::{PageAccess, PageRequest, PageResponseCode};
use vnic_abi::status::Status;
use vnic_iommu::fault::{self, Claimant, Outcome, Waiter, Wish};
use vnic_iommu::walk::Access;

/// What became of page requests since the driver started the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageCounters {
    /// Requests sent.
    pub sent: u64,
    /// Pages that they asked for.
    pub pages: u64,
    /// Pages among them that nobody waited for.
    pub prefetched: u64,
    /// Waits for a page that an outstanding request was to bring.
    pub merged: u64,
    /// Waits for a page that was not asked for at once, since the budget was used up or others came
    /// first.
    pub deferred: u64,
    /// Prefetches given up for want of budget.
    pub skipped: u64,
    /// Waits given up since the page did not come in time.
    pub late: u64,
}

impl Session {
    /// Whose share of this guest's budget a wish of `asker` for pages of `pasid` takes.
    pub fn claimant(&self, asker: &Self, pasid: u32) -> Claimant {
        if asker.uid == self.uid { Claimant::Own(pasid) } else { Claimant::Foreign(asker.uid) }
    }

    /// Asks the guest for pages on behalf of `waiter`, at once or when its budget allows. `false` if
    /// that is not now.
    pub fn request_pages(&self, wish: Wish, waiter: Waiter, now: Instant) -> bool {
        // A statement of its own: sending takes other locks.
        let outcome = self.page_requests.lock().request(wish, waiter, now);
        match outcome {
            Outcome::New(request) => self.send_page_request(&request),
            Outcome::Merged(_) => {}
            Outcome::Deferred => {
                let others = self.send_deferred(now).is_some();
                let asked = !self.page_requests.lock().is_deferred(waiter.who);
                if asked && others {
                    self.wake_next_deferred();
                }
                return asked;
            }
        }
        true
    }

    /// Asks the guest for pages that will be needed, if there is budget to spare.
    pub fn prefetch_pages(&self, wish: Wish, now: Instant) {
        let request = self.page_requests.lock().prefetch(wish, now);
        if let Some(request) = request {
            self.send_page_request(&request);
        }
    }

    /// Asks for what was deferred, as far as the budget allows now. Returns when to look again, if
    /// the rate is what others wait for.
    pub fn send_deferred(&self, now: Instant) -> Option<Instant> {
        loop {
            let mut requests = self.page_requests.lock();
            let Some(request) = requests.next(now) else { return requests.next_time(now) };
            drop(requests);
            self.send_page_request(&request);
        }
    }

    /// As [`Self::send_deferred`], for a thread that has no timers: if there is a time to look again,
    /// leaves that to the queue pair whose wish is the next.
    fn settle(&self) {
        if self.send_deferred(Instant::now()).is_some() {
            self.wake_next_deferred();
        }
    }

    /// Lets the queue pair whose wish is the next look when to ask again.
    pub fn wake_next_deferred(&self) {
        let next = self.page_requests.lock().next_waiter();
        if let Some(next) = next {
            self.device.tell(next.who, None);
        }
    }

    /// `qpn` waits no longer.
    pub fn forget_page_waiter(&self, qpn: u32) {
        // A statement of its own, as above.
        let was_deferred = self.page_requests.lock().forget_waiter(qpn);
        if was_deferred {
            self.settle();
        }
    }

    /// An address space is gone, and with it the requests for its pages.
    pub(crate) fn cancel_pages(&self, pasid: u32) {
        let waiters = self.page_requests.lock().cancel_pasid(pasid);
        self.device.answer_all(&waiters, None);
        self.settle();
    }

    fn send_page_request(&self, request: &fault::PageRequest) {
        let access = match request.access {
            Access::Read => PageAccess::READ,
            Access::Write => PageAccess::READ | PageAccess::WRITE,
        };
        self.up.page_request(PageRequest {
            id: request.id.into(),
            pasid: request.pasid.into(),
            start: request.start.0.into(),
            length: request.len.into(),
            access: access.bits().into(),
            reserved: 0.into(),
        });
    }

    /// Takes the guest's answer to a page request.
    ///
    /// # Errors
    ///
    /// `BadHandle` if no such request waits, `BadAttribute` for an unknown code.
    pub fn page_response(&self, id: u32, code: PageResponseCode) -> Result<(), Status> {
        if code.name().is_none() {
            return Err(Status::BadAttribute);
        }
        let answered = self.page_requests.lock().complete(id).ok_or(Status::BadHandle)?;
        let denied = (code != PageResponseCode::Success)
            .then_some((answered.request.start, answered.request.access));
        self.settle();
        self.device.answer_all(&answered.waiters, denied);
        Ok(())
    }

    /// What became of page requests.
    pub fn page_counters(&self) -> PageCounters {
        let counters = self.page_requests.lock().counters();
        PageCounters {
            sent: counters.sent,
            pages: counters.pages,
            prefetched: counters.prefetched,
            merged: counters.merged,
            deferred: counters.deferred,
            skipped: counters.skipped,
            // Relaxed: statistics.
            late: self.late_pages.load(Ordering::Relaxed),
        }
    }
}
