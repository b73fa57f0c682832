// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose turn it is: deficit round robin over tenants, then round robin over queue pairs.
//!
//! M. Shreedhar and G. Varghese, "Efficient fair queuing using deficit round robin", 1996.

use crate::object::qp::Qp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Cost that a tenant may have in one turn, about bytes.
const QUANTUM: i64 = 64 << 10;
/// What a turn costs at least. A turn in which nothing could be done takes time too: were it free, a
/// tenant that rings for enough idle queue pairs would never use up its deficit.
const TURN_COST: u64 = 256;

struct Tenant<T> {
    id: u64,
    deficit: i64,
    ready: VecDeque<T>,
}

/// Fair order over anything that belongs to tenants.
pub struct FairQueue<T> {
    /// The tenant in front has its turn. None is empty.
    tenants: VecDeque<Tenant<T>>,
    /// Queues of former tenants, kept so that coming and going allocates nothing.
    spare: Vec<VecDeque<T>>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { tenants: VecDeque::new(), spare: Vec::new() }
    }
}

impl<T> FairQueue<T> {
    /// Whether nobody is ready.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// Whether more than one is ready.
    pub fn is_several(&self) -> bool {
        match self.tenants.front() {
            Some(tenant) => self.tenants.len() > 1 || tenant.ready.len() > 1,
            None => false,
        }
    }

    /// Puts something of `tenant` at the end of its line.
    pub fn push(&mut self, tenant: u64, item: T) {
        if let Some(held) = self.tenants.iter_mut().find(|held| held.id == tenant) {
            held.ready.push_back(item);
            return;
        }
        let mut ready = self.spare.pop().unwrap_or_default();
        ready.push_back(item);
        self.tenants.push_back(Tenant { id: tenant, deficit: QUANTUM, ready });
    }

    /// The next in order. Say with [`Self::charge`] what it cost.
    pub fn pop(&mut self) -> Option<(u64, T)> {
        while self.tenants.front()?.deficit <= 0 {
            let mut tenant = self.tenants.pop_front()?;
            tenant.deficit += QUANTUM;
            self.tenants.push_back(tenant);
        }
        let tenant = self.tenants.front_mut()?;
        let id = tenant.id;
        tenant.ready.pop_front().map(|item| (id, item))
    }

    /// What the turn of `tenant` cost; whether there is `more` of the same.
    pub fn charge(&mut self, tenant: u64, cost: u64, more: Option<T>) {
        let Some(index) = self.tenants.iter().position(|held| held.id == tenant) else { return };
        let held = &mut self.tenants[index];
        // A step costs little more than a chunk; the bound only keeps the sum sane.
        held.deficit -= cost.clamp(TURN_COST, 1 << 40) as i64;
        if let Some(item) = more {
            held.ready.push_back(item);
        }
        if held.ready.is_empty()
            && let Some(mut gone) = self.tenants.remove(index)
        {
            gone.ready.clear();
            self.spare.push(gone.ready);
        }
    }
}

/// Queue pairs that have something to do.
#[derive(Default)]
pub struct Schedule {
    queue: FairQueue<Arc<Qp>>,
}

impl Schedule {
    /// Whether nobody is ready.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether there is somebody behind the next in order.
    #[inline]
    pub fn others_wait(&self) -> bool {
        self.queue.is_several()
    }

    /// Gives `qp` a turn, unless it has one coming.
    #[inline]
    pub fn push(&mut self, qp: &Arc<Qp>) {
        // Relaxed, both: only this worker uses the flag.
        if !qp.scheduled.load(Ordering::Relaxed) {
            qp.scheduled.store(true, Ordering::Relaxed);
            self.queue.push(qp.session.uid, qp.clone());
        }
    }

    /// Gives `qp` another turn after one that cost this, and that was not taken from here.
    pub fn push_after(&mut self, qp: &Arc<Qp>, cost: u64) {
        self.push(qp);
        self.queue.charge(qp.session.uid, cost, None);
    }

    /// Runs one turn. `false` if nobody is ready.
    #[inline]
    pub fn turn(&mut self, run: impl FnOnce(&Arc<Qp>) -> (u64, bool)) -> bool {
        let Some((tenant, qp)) = self.queue.pop() else { return false };
        // Relaxed: as above. Before the turn, so that whatever comes meanwhile counts.
        qp.scheduled.store(false, Ordering::Relaxed);
        let (cost, more) = run(&qp);
        let again = more && !qp.scheduled.load(Ordering::Relaxed);
        if again {
            qp.scheduled.store(true, Ordering::Relaxed);
        }
        self.queue.charge(tenant, cost, again.then_some(qp));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Busy tenants get equal shares however different their steps and their numbers are.
        #[test]
        fn busy_tenants_share_equally(
            costs in prop::collection::vec((TURN_COST..70_000, 1usize..20), 2..8),
        ) {
            let mut queue = FairQueue::default();
            for (tenant, (_, items)) in costs.iter().enumerate() {
                for item in 0..*items {
                    queue.push(tenant as u64, item);
                }
            }
            let mut spent = vec![0u64; costs.len()];
            for _ in 0..20_000 {
                let (tenant, item) = queue.pop().unwrap();
                let cost = costs[tenant as usize].0;
                spent[tenant as usize] += cost;
                queue.charge(tenant, cost, Some(item));
            }
            let (least, most) = (spent.iter().min().unwrap(), spent.iter().max().unwrap());
            let step = costs.iter().map(|(cost, _)| *cost).max().unwrap();
            prop_assert!(most - least <= 2 * (QUANTUM as u64 + step), "{spent:?}");
        }
    }

    /// A guest may ring the doorbells of queue pairs that have nothing to do as fast as it likes.
    #[test]
    fn turns_in_which_nothing_happens_are_not_free() {
        let mut queue = FairQueue::default();
        for item in 0..16 {
            queue.push(1, item);
        }
        queue.push(2, 100);
        let mut turns = 0;
        while let Some((tenant, item)) = queue.pop() {
            if tenant == 2 {
                break;
            }
            turns += 1;
            assert!(turns <= QUANTUM as u64 / TURN_COST, "tenant 2 never has its turn");
            queue.charge(tenant, 0, Some(item));
        }
    }

    #[test]
    fn a_tenants_items_take_turns_and_empty_tenants_leave() {
        let mut queue = FairQueue::default();
        queue.push(1, 'a');
        queue.push(1, 'b');
        let mut order = String::new();
        for _ in 0..4 {
            let (tenant, item) = queue.pop().unwrap();
            order.push(item);
            queue.charge(tenant, 1, Some(item));
        }
        assert_eq!(order, "abab");
        for _ in 0..2 {
            let (tenant, _) = queue.pop().unwrap();
            queue.charge(tenant, 1, None);
        }
        assert!(queue.is_empty() && queue.pop().is_none());
    }
}
