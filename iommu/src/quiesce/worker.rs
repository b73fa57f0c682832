// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device's half of the epoch: a worker announces that it is accessing guest memory.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::{
    EPOCH_SLOT_WORDS, EPOCH_SLOTS, GuestPage, SharedWords, Step, full_fence_after_swap, leaves_out,
};

/// Address-space owners (VMs) that one burst can span.
pub const MAX_BURST_SLOTS: usize = 8;

/// A worker's slot in the epoch page of one VM. Owned by the worker's thread.
#[derive(Debug)]
pub struct WorkerSlot<P: SharedWords = GuestPage> {
    page: P,
    word: usize,
    /// The worker's own count. The page is only written: its content is the guest's to spoil.
    epoch: Cell<u64>,
    /// Bursts that hold the slot; the epoch is odd exactly while this is not 0.
    depth: Cell<u32>,
}

impl<P: SharedWords> WorkerSlot<P> {
    /// The slot of worker `index` in `page`, marked idle. `None` if the page has no such slot.
    pub fn new(page: P, index: usize) -> Option<Self> {
        if index >= EPOCH_SLOTS {
            return None;
        }
        let word = index * EPOCH_SLOT_WORDS;
        // Release: pairs with the driver's Acquire (G4); nothing was accessed before.
        page.store(word, 0, Ordering::Release);
        Some(Self { page, word, epoch: Cell::new(0), depth: Cell::new(0) })
    }

    /// Enters a burst in this VM alone. See [`Burst`].
    #[inline]
    pub fn enter(&self) -> Burst<'_, P> {
        let burst = Burst::empty();
        burst.mark(self);
        self.fence();
        burst
    }

    /// Announces the burst; a fence must follow before anything is read.
    #[inline]
    fn mark(&self) {
        let depth = self.depth.get();
        self.depth.set(depth + 1);
        if depth == 0 {
            if leaves_out(Step::Fence) {
                self.epoch.set(self.epoch.get().wrapping_add(1));
                return;
            }
            // Release: D1, pairs with G4, which may see this value instead of the D5 before it.
            self.advance();
        }
    }

    /// Between the announcement and the first look at a generation or a table.
    #[inline]
    fn fence(&self) {
        if !leaves_out(Step::Fence) {
            // SeqCst: D2, pairs with the driver's fence G3, in every VM that was marked.
            self.page.fence(Ordering::SeqCst);
        }
    }

    #[inline]
    fn leave(&self) {
        let depth = self.depth.get() - 1;
        self.depth.set(depth);
        if depth == 0 {
            // Release: D5, pairs with G4. The burst's accesses are over when the driver sees it.
            self.advance();
        }
    }

    /// Shows the driver an epoch that is not due.
    #[cfg(vnic_sabotage)]
    fn show(&self, epoch: u64) {
        self.page.store(self.word, epoch, Ordering::Release);
    }

    #[inline]
    fn advance(&self) {
        let epoch = self.epoch.get().wrapping_add(1);
        self.epoch.set(epoch);
        self.page.store(self.word, epoch, Ordering::Release);
    }
}

/// Proof that the worker is inside a burst: while it lives, no guest page that was translated in it
/// is reused behind the device's back. Dropping it leaves.
///
/// Keep bursts short: an invalidation in the guest waits for them, and may not sleep.
#[derive(Debug)]
pub struct Burst<'w, P: SharedWords = GuestPage> {
    slots: [Cell<Option<&'w WorkerSlot<P>>>; MAX_BURST_SLOTS],
    /// Which translator numbered the burst, and the number; 0 before the first translation.
    owner: Cell<u64>,
    serial: Cell<u64>,
    /// See [`Self::sabotage`].
    #[cfg(vnic_sabotage)]
    translated: Cell<bool>,
}

impl<'w, P: SharedWords> Burst<'w, P> {
    #[inline]
    fn empty() -> Self {
        Self {
            slots: [const { Cell::new(None) }; MAX_BURST_SLOTS],
            owner: Cell::new(0),
            serial: Cell::new(0),
            #[cfg(vnic_sabotage)]
            translated: Cell::new(false),
        }
    }

    /// Enters a burst in several VMs at the price of one fence. Naming a slot twice is harmless.
    ///
    /// # Panics
    ///
    /// If there are more than [`MAX_BURST_SLOTS`] different slots.
    #[inline]
    pub fn enter_all(slots: &[&'w WorkerSlot<P>]) -> Self {
        let burst = Self::empty();
        for slot in slots {
            assert!(burst.covers(slot) || burst.mark(slot), "too many slots for one burst");
        }
        if let Some(slot) = slots.first() {
            slot.fence();
        }
        burst
    }

    /// As [`enter_all`](Self::enter_all) with two slots, which may be the same.
    #[inline]
    pub fn enter_both(one: &'w WorkerSlot<P>, other: &'w WorkerSlot<P>) -> Self {
        let burst = Self::announce_both(one, other);
        one.fence();
        burst
    }

    /// As [`enter_both`](Self::enter_both), with `try_lock` called between the announcement and whatever the burst
    /// is for. What takes the lock is the burst's fence, where it is one. `None`, without a burst, if the lock is
    /// somebody else's: to wait for it in a burst would keep guests waiting.
    ///
    /// # Safety
    ///
    /// Where `try_lock` returns something, it ended with a read-modify-write operation of this thread that succeeded.
    #[inline]
    #[allow(unsafe_code)] // reason: what the closure does is the caller's word
    pub unsafe fn try_enter_both<L>(
        one: &'w WorkerSlot<P>,
        other: &'w WorkerSlot<P>,
        try_lock: impl FnOnce() -> Option<L>,
    ) -> Option<(Self, L)> {
        let burst = Self::announce_both(one, other);
        let locked = try_lock()?;
        if !leaves_out(Step::Fence) {
            // SeqCst: D2, as in `fence`.
            full_fence_after_swap();
        }
        Some((burst, locked))
    }

    #[inline]
    fn announce_both(one: &'w WorkerSlot<P>, other: &'w WorkerSlot<P>) -> Self {
        let burst = Self::empty();
        burst.slots[0].set(Some(one));
        one.mark();
        if !std::ptr::eq(one, other) {
            burst.slots[1].set(Some(other));
            other.mark();
        }
        burst
    }

    /// Extends the burst to another VM, unless it covers it already. `false` if it spans
    /// [`MAX_BURST_SLOTS`] others: leave this burst and enter a new one.
    #[inline]
    pub fn join(&self, slot: &'w WorkerSlot<P>) -> bool {
        if self.covers(slot) {
            return true;
        }
        if !self.mark(slot) {
            return false;
        }
        slot.fence();
        // Generations read before the fence do not count for the new slot.
        self.serial.set(0);
        true
    }

    /// Whether the burst has entered `slot`.
    #[inline]
    pub fn covers(&self, slot: &WorkerSlot<P>) -> bool {
        self.marked().any(|held| std::ptr::eq(held, slot))
    }

    /// Leaves; the same as dropping.
    #[inline]
    pub fn leave(self) {}

    #[inline]
    fn mark(&self, slot: &'w WorkerSlot<P>) -> bool {
        let Some(free) = self.slots.iter().find(|held| held.get().is_none()) else {
            return false;
        };
        free.set(Some(slot));
        slot.mark();
        true
    }

    #[inline]
    fn marked(&self) -> impl Iterator<Item = &'w WorkerSlot<P>> {
        self.slots.iter().map_while(Cell::get)
    }

    /// In a build that is to be found out: enters too late or leaves too early. Called after each
    /// translation; the second is the last before bytes move.
    #[cfg(vnic_sabotage)]
    pub(crate) fn sabotage(&self) {
        if leaves_out(Step::Fence) && self.translated.replace(true) {
            self.marked().for_each(|slot| slot.show(slot.epoch.get()));
        }
        if leaves_out(Step::LateLeave) {
            self.marked().for_each(|slot| slot.show(slot.epoch.get().wrapping_add(1)));
        }
    }

    /// The number that translator `owner` gave this burst, if it gave one.
    #[inline]
    pub(crate) fn serial(&self, owner: u64) -> Option<u64> {
        let serial = self.serial.get();
        (self.owner.get() == owner && serial != 0).then_some(serial)
    }

    #[inline]
    pub(crate) fn set_serial(&self, owner: u64, serial: u64) {
        self.owner.set(owner);
        self.serial.set(serial);
    }
}

impl<P: SharedWords> Drop for Burst<'_, P> {
    #[inline]
    fn drop(&mut self) {
        for slot in self.marked() {
            slot.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    use crate::addr::Gpa;
    use crate::testing::anonymous_ram;

    fn epochs(ram: &crate::GuestRam, slot: u64) -> u64 {
        ram.read_u64(Gpa(slot * 64)).unwrap()
    }

    #[test]
    fn a_slot_is_odd_while_any_burst_holds_it() {
        let ram = anonymous_ram(0x1000);
        let page = GuestPage::new(&ram, Gpa(0)).unwrap();
        let slots: Vec<_> = (0..3).map(|i| WorkerSlot::new(page.clone(), i).unwrap()).collect();
        for other in [0, 1] {
            let both = Burst::enter_both(&slots[0], &slots[other]);
            assert_eq!([0, 1].map(|i| epochs(&ram, i) % 2), [1, other as u64]);
            drop(both);
            assert_eq!([0, 1].map(|i| epochs(&ram, i) % 2), [0, 0]);
            for free in [true, false] {
                let lock = || {
                    assert_eq!([0, 1].map(|i| epochs(&ram, i) % 2), [1, other as u64]);
                    free.then(|| AtomicBool::new(false).swap(true, Ordering::Acquire))
                };
                #[allow(unsafe_code)] // reason: the function under test
                // SAFETY: the closure returns something behind an exchange.
                let both = unsafe { Burst::try_enter_both(&slots[0], &slots[other], lock) };
                assert_eq!(both.is_some(), free);
                let inside = u64::from(free);
                assert_eq!([0, 1].map(|i| epochs(&ram, i) % 2), [inside, inside * other as u64]);
            }
            assert_eq!([0, 1].map(|i| epochs(&ram, i) % 2), [0, 0]);
        }
        let before = [0, 1].map(|i| epochs(&ram, i));
        let outer = Burst::enter_all(&[&slots[0], &slots[1], &slots[0]]);
        let epochs = |ram: &_, slot: u64| {
            epochs(ram, slot) - before.get(slot as usize).copied().unwrap_or(0)
        };
        assert_eq!([0, 1, 2].map(|i| epochs(&ram, i)), [1, 1, 0]);
        assert!(outer.join(&slots[2]) && outer.join(&slots[2]));
        assert_eq!(epochs(&ram, 2), 1);
        let inner = slots[1].enter();
        drop(outer);
        assert_eq!([0, 1, 2].map(|i| epochs(&ram, i)), [2, 1, 2]);
        inner.leave();
        assert_eq!(epochs(&ram, 1), 2);
    }

    #[test]
    fn the_page_is_never_believed() {
        let ram = anonymous_ram(0x1000);
        let page = GuestPage::new(&ram, Gpa(0)).unwrap();
        let slot = WorkerSlot::new(page, 5).unwrap();
        ram.write_u64(Gpa(5 * 64), u64::MAX).unwrap();
        let burst = slot.enter();
        assert_eq!(epochs(&ram, 5), 1);
        ram.write_u64(Gpa(5 * 64), 77).unwrap();
        drop(burst);
        assert_eq!(epochs(&ram, 5), 2);
    }

    #[test]
    fn slots_and_bursts_have_limits() {
        let ram = anonymous_ram(0x1000);
        let page = GuestPage::new(&ram, Gpa(0)).unwrap();
        assert!(WorkerSlot::new(page.clone(), EPOCH_SLOTS).is_none());
        let slots: Vec<_> =
            (0..=MAX_BURST_SLOTS).map(|i| WorkerSlot::new(page.clone(), i).unwrap()).collect();
        let most: Vec<_> = slots[..MAX_BURST_SLOTS].iter().collect();
        let burst = Burst::enter_all(&most);
        assert!(!burst.join(&slots[MAX_BURST_SLOTS]));
        assert_eq!(epochs(&ram, MAX_BURST_SLOTS as u64), 0);
    }
}
