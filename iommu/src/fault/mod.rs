// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests: pages that the guest's kernel is asked to provide, and who waits for them.
//!
//! No I/O happens here and no clock is read: the caller sends what [`PageRequestTable::request`],
//! [`prefetch`](PageRequestTable::prefetch) and [`next`](PageRequestTable::next) return, and reports
//! the guest's answers. After an answer every waiter translates again, whatever the answer said; a
//! page that is gone again becomes another request.
//!
//! A wish that the [budget](Limits) does not allow now is kept and becomes a request when it does:
//! claimants in turn, each one's wishes in the order of asking.

mod budget;
mod wish;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use crate::addr::Gva;
use crate::walk::Access;
use budget::Bucket;
use wish::Deferred;

pub use budget::{Claimant, Limits};
pub use wish::{Waiter, Wish};

/// A range of pages that a guest's kernel is asked to make accessible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Names the request in the guest's answer. Not reused while the request is outstanding.
    pub id: u32,
    /// The address space.
    pub pasid: u32,
    /// First byte, page-aligned.
    pub start: Gva,
    /// Bytes, a multiple of the page size, at least one page.
    pub len: u64,
    /// What the device wants to do.
    pub access: Access,
}

/// What became of a wish for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody has asked yet: send this.
    New(PageRequest),
    /// The waiter was added to the outstanding request with this id.
    Merged(u32),
    /// There is no budget for it now, or others come first. Ask [`PageRequestTable::next`].
    Deferred,
}

/// The guest's answer to a request has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What was asked for.
    pub request: PageRequest,
    /// Who waited, in the order of joining it (claimants whose wishes were deferred take turns).
    pub waiters: Vec<Waiter>,
}

/// What a [`PageRequestTable`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests to be sent.
    pub sent: u64,
    /// Pages that they asked for.
    pub pages: u64,
    /// Pages among them that nobody waited for.
    pub prefetched: u64,
    /// Wishes that an outstanding request serves.
    pub merged: u64,
    /// Wishes that had to wait for the budget.
    pub deferred: u64,
    /// Prefetches given up for want of budget.
    pub skipped: u64,
    /// Requests answered.
    pub completed: u64,
    /// Requests given up because their address space went away.
    pub cancelled: u64,
    /// Answers to no outstanding request.
    pub unknown: u64,
}

#[derive(Debug)]
struct Pending {
    request: PageRequest,
    claimant: Claimant,
    waiters: Vec<Waiter>,
}

/// What one claimant holds and wishes for. None is empty.
#[derive(Debug, Default)]
struct Share {
    /// Outstanding requests.
    held: usize,
    /// By the number of asking.
    deferred: BTreeMap<u64, Deferred>,
}

/// Where a waiter is remembered.
#[derive(Clone, Copy, Debug)]
enum Place {
    Request(u32),
    Deferred(Claimant, u64),
}

/// The outstanding page requests of one VM or tenant, and the wishes for more.
///
/// Its size is bounded by the limit of requests and by the number of waiters, each of which is
/// remembered once.
#[derive(Debug)]
pub struct PageRequestTable {
    limits: Limits,
    bucket: Bucket,
    /// By id.
    pending: BTreeMap<u32, Pending>,
    /// Outstanding requests of other guests.
    foreign: usize,
    shares: BTreeMap<Claimant, Share>,
    /// Claimants with deferred wishes, the one whose turn it is first.
    turns: VecDeque<Claimant>,
    /// Waiters by who they are.
    places: HashMap<u32, Place>,
    next_id: u32,
    next_order: u64,
    counters: Counters,
}

impl PageRequestTable {
    /// An empty table. A table without room for one request defers everything.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            bucket: Bucket::new(&limits),
            pending: BTreeMap::new(),
            foreign: 0,
            shares: BTreeMap::new(),
            turns: VecDeque::new(),
            places: HashMap::new(),
            next_id: 1,
            next_order: 0,
            counters: Counters::default(),
        }
    }

    /// Asks for pages on behalf of `waiter`, who is returned when the request is answered. Whatever
    /// the same one waited for before is forgotten.
    pub fn request(&mut self, wish: Wish, waiter: Waiter, now: Instant) -> Outcome {
        self.forget_waiter(waiter.who);
        if let Some(held) = serving(&self.pending, &wish) {
            return Outcome::Merged(self.merge(held, waiter));
        }
        if self.turns.is_empty() && self.admits(wish.claimant) && self.bucket.take(now) {
            return Outcome::New(self.send(&wish, Some(waiter)));
        }
        self.counters.deferred += 1;
        let order = self.next_order;
        self.next_order += 1;
        let share = self.shares.entry(wish.claimant).or_default();
        if share.deferred.is_empty() {
            self.turns.push_back(wish.claimant);
        }
        share.deferred.insert(order, Deferred { wish, waiter });
        self.places.insert(waiter.who, Place::Deferred(wish.claimant, order));
        Outcome::Deferred
    }

    /// Asks for pages that will be needed, for nobody yet: only what was not asked for already, and
    /// only if there is budget to spare.
    pub fn prefetch(&mut self, wish: Wish, now: Instant) -> Option<PageRequest> {
        let mut wish = wish;
        while let Some(id) = serving(&self.pending, &wish) {
            wish = wish.behind(&self.pending.get(&id)?.request)?;
        }
        let held = self.shares.get(&wish.claimant).map_or(0, |share| share.held);
        // Half of what would be allowed, so that prefetching leaves room for what is waited for.
        let spare = self.turns.is_empty() && self.admits_with(wish.claimant, 2 * held);
        if !spare || !self.bucket.take(now) {
            self.counters.skipped += 1;
            return None;
        }
        Some(self.send(&wish, None))
    }

    /// The next deferred wish for which there is budget, as a request to send. Ask until there is
    /// none: whenever a wish was deferred, a request answered, or time has passed.
    pub fn next(&mut self, now: Instant) -> Option<PageRequest> {
        for _ in 0..self.turns.len() {
            let claimant = self.turns.pop_front()?;
            if !self.admits(claimant) {
                self.turns.push_back(claimant);
                continue;
            }
            while let Some((&order, &Deferred { wish, waiter })) =
                self.shares.get(&claimant).and_then(|share| share.deferred.first_key_value())
            {
                let serving = serving(&self.pending, &wish);
                if serving.is_none() && !self.bucket.take(now) {
                    // Its turn is not over.
                    self.turns.push_front(claimant);
                    return None;
                }
                self.remove_deferred(claimant, order);
                if let Some(id) = serving {
                    self.merge(id, waiter);
                    continue;
                }
                if self.shares.get(&claimant).is_some_and(|share| !share.deferred.is_empty()) {
                    self.turns.push_back(claimant);
                }
                return Some(self.send(&wish, Some(waiter)));
            }
        }
        None
    }

    /// When to call [`next`](Self::next) again, if nothing else happens before: `None` if it is for
    /// an answer, and not for the rate, that deferred wishes wait. Each caller is told a time at
    /// which the wishes deferred so far have got theirs, so that not all come back at once.
    pub fn next_time(&self, now: Instant) -> Option<Instant> {
        let waits = !self.turns.is_empty() && !self.bucket.is_ready(now);
        waits.then(|| {
            let deferred = self.deferred().clamp(1, u32::MAX as usize) as u32;
            self.bucket.ready_at(deferred, now)
        })
    }

    /// Whose wish will be the next to become a request.
    pub fn next_waiter(&self) -> Option<Waiter> {
        let share = self.shares.get(self.turns.front()?)?;
        share.deferred.first_key_value().map(|(_, deferred)| deferred.waiter)
    }

    /// The guest has answered `id`. `None` if nothing with this id is outstanding: answered before,
    /// cancelled, or made up.
    pub fn complete(&mut self, id: u32) -> Option<Answered> {
        let Some(done) = self.pending.remove(&id) else {
            self.counters.unknown += 1;
            return None;
        };
        self.counters.completed += 1;
        self.release(done.claimant);
        for waiter in &done.waiters {
            self.places.remove(&waiter.who);
        }
        Some(Answered { request: done.request, waiters: done.waiters })
    }

    /// The address space went away: gives up its requests and the wishes for more, and returns who
    /// waited for them.
    pub fn cancel_pasid(&mut self, pasid: u32) -> Vec<Waiter> {
        let mut freed = Vec::new();
        let ids: Vec<u32> = self
            .pending
            .values()
            .map(|held| held.request)
            .filter_map(|request| (request.pasid == pasid).then_some(request.id))
            .collect();
        for id in ids {
            let Some(gone) = self.pending.remove(&id) else { continue };
            self.counters.cancelled += 1;
            self.release(gone.claimant);
            freed.extend(gone.waiters);
        }
        for share in self.shares.values() {
            let of_space = share.deferred.values().filter(|deferred| deferred.wish.pasid == pasid);
            freed.extend(of_space.map(|deferred| deferred.waiter));
        }
        for waiter in &freed {
            self.forget_waiter(waiter.who);
        }
        freed
    }

    /// `who` waits no longer: it is not returned any more. A request that was sent for it stays
    /// outstanding, since the guest will answer it. Says whether a wish of its own was deferred.
    pub fn forget_waiter(&mut self, who: u32) -> bool {
        match self.places.remove(&who) {
            None => false,
            Some(Place::Request(id)) => {
                if let Some(held) = self.pending.get_mut(&id) {
                    held.waiters.retain(|waiter| waiter.who != who);
                }
                false
            }
            Some(Place::Deferred(claimant, order)) => {
                self.remove_deferred(claimant, order);
                if self.shares.get(&claimant).is_none_or(|share| share.deferred.is_empty()) {
                    self.turns.retain(|&turn| turn != claimant);
                }
                true
            }
        }
    }

    /// Whether a wish of `who` waits for the budget.
    pub fn is_deferred(&self, who: u32) -> bool {
        matches!(self.places.get(&who), Some(Place::Deferred(..)))
    }

    /// The outstanding request with this id.
    pub fn get(&self, id: u32) -> Option<&PageRequest> {
        self.pending.get(&id).map(|held| &held.request)
    }

    /// Who waits for the outstanding request with this id, in the order of joining it.
    pub fn waiters(&self, id: u32) -> &[Waiter] {
        self.pending.get(&id).map_or(&[], |held| &held.waiters)
    }

    /// The number of outstanding requests.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing is outstanding.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The number of waiters for outstanding requests.
    pub fn waiting(&self) -> usize {
        self.pending.values().map(|held| held.waiters.len()).sum()
    }

    /// The number of wishes that wait for the budget.
    pub fn deferred(&self) -> usize {
        self.shares.values().map(|share| share.deferred.len()).sum()
    }

    /// Counters since construction.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    fn admits(&self, claimant: Claimant) -> bool {
        let held = self.shares.get(&claimant).map_or(0, |share| share.held);
        self.admits_with(claimant, held)
    }

    fn admits_with(&self, claimant: Claimant, held: usize) -> bool {
        self.limits.admits(claimant, held, self.pending.len(), self.foreign)
    }

    fn merge(&mut self, id: u32, waiter: Waiter) -> u32 {
        self.counters.merged += 1;
        if let Some(held) = self.pending.get_mut(&id) {
            held.waiters.push(waiter);
            self.places.insert(waiter.who, Place::Request(id));
        }
        id
    }

    fn send(&mut self, wish: &Wish, waiter: Option<Waiter>) -> PageRequest {
        let (start, len) = wish.whole_pages();
        let request =
            PageRequest { id: self.fresh_id(), pasid: wish.pasid, start, len, access: wish.access };
        let claimant = wish.claimant;
        self.shares.entry(claimant).or_default().held += 1;
        self.foreign += usize::from(matches!(claimant, Claimant::Foreign(_)));
        if let Some(waiter) = waiter {
            self.places.insert(waiter.who, Place::Request(request.id));
        }
        let waiters = waiter.into_iter().collect();
        self.pending.insert(request.id, Pending { request, claimant, waiters });
        self.counters.sent += 1;
        self.counters.pages += wish.pages();
        self.counters.prefetched +=
            if waiter.is_some() { wish.pages_ahead() } else { wish.pages() };
        request
    }

    /// A request of `claimant` is over.
    fn release(&mut self, claimant: Claimant) {
        self.foreign -= usize::from(matches!(claimant, Claimant::Foreign(_)));
        if let Some(share) = self.shares.get_mut(&claimant) {
            share.held -= 1;
            if share.held == 0 && share.deferred.is_empty() {
                self.shares.remove(&claimant);
            }
        }
    }

    /// Takes a wish out; the claimant's turn is the caller's affair.
    fn remove_deferred(&mut self, claimant: Claimant, order: u64) {
        if let Some(share) = self.shares.get_mut(&claimant) {
            if let Some(gone) = share.deferred.remove(&order) {
                self.places.remove(&gone.waiter.who);
            }
            if share.held == 0 && share.deferred.is_empty() {
                self.shares.remove(&claimant);
            }
        }
    }

    fn fresh_id(&mut self) -> u32 {
        // Ends: fewer than 2^32 requests fit in memory, let alone in the limits.
        while self.pending.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }
}

/// The outstanding request that will bring the first page of `wish`.
fn serving(pending: &BTreeMap<u32, Pending>, wish: &Wish) -> Option<u32> {
    pending.values().find(|held| wish.is_served_by(&held.request)).map(|held| held.request.id)
}
