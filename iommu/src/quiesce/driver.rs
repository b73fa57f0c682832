// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver's half, for guests that are processes. The kernel module has the same in C.

#[cfg(loom)]
use loom::sync::Mutex;
use std::sync::atomic::Ordering;
#[cfg(not(loom))]
use std::sync::{Mutex, PoisonError};

use super::{
    ACKNOWLEDGED_WORD, EPOCH_SLOT_WORDS, EPOCH_SLOTS, GENERATION_WORD, GuestPage, SharedWords,
    ring_word,
};

/// Takes translations of one address space back from the device.
#[derive(Debug)]
pub struct Invalidator<I: SharedWords = GuestPage, E: SharedWords = GuestPage> {
    invalidation: I,
    epochs: E,
    /// The last generation published; the lock orders writers of the ring.
    generation: Mutex<u64>,
}

/// The device is inside a burst for longer than the caller would wait. It may still access what was
/// invalidated: the page must not be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {worker} did not leave its burst in time")]
pub struct TimedOut {
    /// The slot that was waited for.
    pub worker: usize,
}

impl<I: SharedWords, E: SharedWords> Invalidator<I, E> {
    /// Announces in `invalidation`, and waits for the workers of `epochs`.
    pub fn new(invalidation: I, epochs: E) -> Self {
        // Relaxed: nothing was published yet, or by this thread's own past.
        let generation = Mutex::new(invalidation.load(GENERATION_WORD, Ordering::Relaxed));
        Self { invalidation, epochs, generation }
    }

    /// Announces that `start..end` is gone and waits until no worker can be using it. The
    /// page-table entries must have been cleared before. `(0, u64::MAX)` means everything.
    ///
    /// `keep_waiting` is asked before each look at a busy worker.
    ///
    /// # Errors
    ///
    /// [`TimedOut`] once `keep_waiting` says no.
    pub fn invalidate(
        &self,
        start: u64,
        end: u64,
        mut keep_waiting: impl FnMut() -> bool,
    ) -> Result<(), TimedOut> {
        self.announce(start, end);
        // SeqCst: G3, pairs with the device's fence D2.
        self.epochs.fence(Ordering::SeqCst);
        (0..EPOCH_SLOTS).try_for_each(|worker| self.wait_for(worker, &mut keep_waiting))
    }

    /// After [`invalidate`](Self::invalidate), and after the device was kicked: waits until what was announced until now has
    /// left the device's windows. `keep_waiting` is asked before each look.
    ///
    /// # Errors
    ///
    /// [`TimedOut`], of no worker, once `keep_waiting` says no.
    pub fn wait_for_windows(&self, mut keep_waiting: impl FnMut() -> bool) -> Result<(), TimedOut> {
        // Relaxed: what this thread announced, or something later.
        let generation = self.invalidation.load(GENERATION_WORD, Ordering::Relaxed);
        // Acquire: pairs with the device's Release after the pages were taken out. Behind, by the distance of numbers that
        // may wrap.
        let behind = || {
            let done = self.invalidation.load(ACKNOWLEDGED_WORD, Ordering::Acquire);
            generation.wrapping_sub(done) as i64 > 0
        };
        while behind() {
            if !keep_waiting() {
                return Err(TimedOut { worker: EPOCH_SLOTS });
            }
            self.invalidation.spin();
        }
        Ok(())
    }

    fn announce(&self, start: u64, end: u64) {
        #[cfg(not(loom))]
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(loom)]
        let mut generation = self.generation.lock().unwrap();
        *generation = generation.wrapping_add(1);
        let word = ring_word(*generation);
        // Release: pairs with the reader's Acquire fence. A reader that sees a new entry in place of
        // the one it wants then also sees that the generation has moved on.
        self.invalidation.store(word, start, Ordering::Release);
        self.invalidation.store(word + 1, end, Ordering::Release);
        // Release: G2, pairs with D3: the entry is visible to whoever sees the generation.
        self.invalidation.store(GENERATION_WORD, *generation, Ordering::Release);
    }

    fn wait_for(
        &self,
        worker: usize,
        keep_waiting: &mut impl FnMut() -> bool,
    ) -> Result<(), TimedOut> {
        // Acquire: G4, pairs with D5 (or the D1 after it): the accesses of the burst have happened.
        let load = || self.epochs.load(worker * EPOCH_SLOT_WORDS, Ordering::Acquire);
        let before = load();
        if before % 2 == 0 {
            return Ok(());
        }
        while load() == before {
            if !keep_waiting() {
                return Err(TimedOut { worker });
            }
            self.epochs.spin();
        }
        Ok(())
    }
}
