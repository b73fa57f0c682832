// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests: pages that the guest's kernel is asked to provide, and who waits for them.
//!
//! No I/O happens here: the caller sends what [`PageRequestTable::request`] returns as new, and
//! reports the guest's answers. After an answer every waiter translates again, whatever the answer
//! said; a page that is gone again becomes another request.

use std::collections::BTreeMap;

use crate::addr::{Gva, PAGE_SHIFT, PAGE_SIZE};
use crate::walk::Access;

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

impl PageRequest {
    /// Whether an answer to this request also answers one for `[start, start + len)` and `access`.
    fn serves(&self, pasid: u32, start: Gva, len: u64, access: Access) -> bool {
        self.pasid == pasid
            && self.access >= access
            && start
                .checked_offset_from(self.start)
                .and_then(|offset| self.len.checked_sub(offset))
                .is_some_and(|rest| rest >= len)
    }
}

/// What became of a wish for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody has asked yet: send this.
    New(PageRequest),
    /// The waiter was added to the outstanding request with this id.
    Merged(u32),
    /// The table has no room. The waiter is not remembered; try again after an answer.
    Full,
}

/// How much a [`PageRequestTable`] may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Outstanding requests.
    pub requests: usize,
    /// Waiters over all requests.
    pub waiters: usize,
}

/// What a [`PageRequestTable`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests to be sent.
    pub sent: u64,
    /// Wishes that an outstanding request serves.
    pub merged: u64,
    /// Wishes refused for lack of room.
    pub refused: u64,
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
    waiters: Vec<u64>,
}

/// The outstanding page requests of one VM or tenant.
#[derive(Debug)]
pub struct PageRequestTable {
    limits: Limits,
    /// By id.
    pending: BTreeMap<u32, Pending>,
    waiters: usize,
    next_id: u32,
    counters: Counters,
}

impl PageRequestTable {
    /// An empty table. A table without room for one request and one waiter refuses everything.
    pub fn new(limits: Limits) -> Self {
        let counters = Counters::default();
        Self { limits, pending: BTreeMap::new(), waiters: 0, next_id: 1, counters }
    }

    /// Asks for the `len` bytes at `va`, widened to whole pages and cut at the end of the address
    /// space. `waiter` is the caller's token, returned when the request is answered; a token that
    /// waits for the request already is not added twice.
    pub fn request(
        &mut self,
        pasid: u32,
        va: Gva,
        len: u64,
        access: Access,
        waiter: u64,
    ) -> Outcome {
        let (start, len) = whole_pages(va, len);
        let serving =
            self.pending.values_mut().find(|held| held.request.serves(pasid, start, len, access));
        if let Some(held) = serving {
            if !held.waiters.contains(&waiter) {
                if self.waiters >= self.limits.waiters {
                    self.counters.refused += 1;
                    return Outcome::Full;
                }
                held.waiters.push(waiter);
                self.waiters += 1;
            }
            self.counters.merged += 1;
            return Outcome::Merged(held.request.id);
        }
        if self.pending.len() >= self.limits.requests || self.waiters >= self.limits.waiters {
            self.counters.refused += 1;
            return Outcome::Full;
        }
        let request = PageRequest { id: self.fresh_id(), pasid, start, len, access };
        self.pending.insert(request.id, Pending { request, waiters: vec![waiter] });
        self.waiters += 1;
        self.counters.sent += 1;
        Outcome::New(request)
    }

    /// The guest has answered `id`. Returns who waited, in the order of asking, or `None` if nothing
    /// with this id is outstanding: answered before, cancelled, or made up.
    pub fn complete(&mut self, id: u32) -> Option<Vec<u64>> {
        let Some(done) = self.pending.remove(&id) else {
            self.counters.unknown += 1;
            return None;
        };
        self.counters.completed += 1;
        self.waiters -= done.waiters.len();
        Some(done.waiters)
    }

    /// The address space went away: gives up its requests and returns who waited for them.
    pub fn cancel_pasid(&mut self, pasid: u32) -> Vec<u64> {
        let mut freed = Vec::new();
        self.pending.retain(|_, held| {
            let keep = held.request.pasid != pasid;
            if !keep {
                self.counters.cancelled += 1;
                freed.append(&mut held.waiters);
            }
            keep
        });
        self.waiters -= freed.len();
        freed
    }

    /// `waiter` went away: it is not returned any more. Its requests stay outstanding, since the
    /// guest will answer them.
    pub fn forget_waiter(&mut self, waiter: u64) {
        for held in self.pending.values_mut() {
            let before = held.waiters.len();
            held.waiters.retain(|&waiting| waiting != waiter);
            self.waiters -= before - held.waiters.len();
        }
    }

    /// The outstanding request with this id.
    pub fn get(&self, id: u32) -> Option<&PageRequest> {
        self.pending.get(&id).map(|held| &held.request)
    }

    /// The number of outstanding requests.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing is outstanding.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The number of waiters over all outstanding requests.
    pub const fn waiters(&self) -> usize {
        self.waiters
    }

    /// Counters since construction.
    pub const fn counters(&self) -> Counters {
        self.counters
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

/// The pages that `len` bytes at `va` touch; at least one.
fn whole_pages(va: Gva, len: u64) -> (Gva, u64) {
    let start = va.align_down(PAGE_SHIFT);
    let end = va
        .checked_add(len.max(1))
        .and_then(|end| end.checked_align_up(PAGE_SHIFT))
        .unwrap_or(Gva(u64::MAX).align_down(PAGE_SHIFT));
    // The very last page has no representable end; ask for it as one page.
    (start, end.0.saturating_sub(start.0).max(PAGE_SIZE))
}
