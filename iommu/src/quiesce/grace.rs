// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Grace periods: how a control thread knows that no worker still uses what it removed.
//!
//! A worker announces once per scheduling pass that it holds nothing from earlier passes. A worker
//! that sleeps holds nothing either. So removing is: take it out of the tables, wait for a pass of
//! every worker that is awake, free. Workers take no lock for it.

#[cfg(loom)]
use loom::sync::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::SharedWords;

/// Looks at the workers before the waiting thread begins to sleep between looks. A pass takes some
/// ten microseconds.
const EAGER_LOOKS: u32 = 200;

/// Words of a cache line.
const LINE: usize = 8;
/// The number of the latest grace period that was asked for.
const TARGET: usize = 0;

/// The latest grace period that a worker knows of and holds nothing from before.
const fn seen(worker: usize) -> usize {
    (worker + 1) * LINE
}

/// Not zero while the worker sleeps.
const fn asleep(worker: usize) -> usize {
    seen(worker) + 1
}

/// Announcements of all workers, each on a cache line of its own.
pub struct Grace<W: SharedWords = Marks> {
    words: W,
    workers: usize,
    /// What [`TARGET`] holds; the lock orders control threads.
    target: Mutex<u64>,
}

impl Grace {
    /// For `workers` workers, all of them asleep.
    pub fn new(workers: usize) -> Self {
        Self::with(Marks::new(workers), workers)
    }
}

impl<W: SharedWords> Grace<W> {
    /// For `workers` workers, all of them asleep, on words that are zero.
    pub fn with(words: W, workers: usize) -> Self {
        for worker in 0..workers {
            // Relaxed: whoever gets to know the new value gets to know this.
            words.store(asleep(worker), 1, Ordering::Relaxed);
        }
        Self { words, workers, target: Mutex::new(0) }
    }

    /// The worker holds nothing that it found before this call.
    #[inline]
    pub fn quiescent(&self, worker: usize) {
        // Acquire: pairs with the Release in `synchronize`; what was removed before it is seen as
        // removed.
        let target = self.words.load(TARGET, Ordering::Acquire);
        // Release: pairs with the Acquire in `synchronize`; earlier accesses are over.
        self.words.store(seen(worker), target, Ordering::Release);
    }

    /// The worker holds nothing and will not look for anything before [`Self::wake`].
    pub fn sleep(&self, worker: usize) {
        // Release: pairs with the Acquire in `synchronize`; earlier accesses are over.
        self.words.store(asleep(worker), 1, Ordering::Release);
    }

    /// The worker begins to look again.
    pub fn wake(&self, worker: usize) {
        // Relaxed: ordered by the fence.
        self.words.store(asleep(worker), 0, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `synchronize`. Either that call sees the worker awake, or
        // the worker sees everything as removed that was removed before the call.
        self.words.fence(Ordering::SeqCst);
    }

    /// Waits until no worker uses anything that was removed before the call.
    ///
    /// Never call it from a worker.
    pub fn synchronize(&self) {
        let target = self.announce();
        // SeqCst: pairs with the fence in `wake`.
        self.words.fence(Ordering::SeqCst);
        for worker in 0..self.workers {
            let mut looks = 0;
            // Acquire, both: pair with the Releases in `quiescent` and in `sleep`.
            while self.words.load(seen(worker), Ordering::Acquire) < target
                && self.words.load(asleep(worker), Ordering::Acquire) == 0
            {
                looks += 1;
                if looks < EAGER_LOOKS {
                    self.words.spin();
                } else {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    fn announce(&self) -> u64 {
        #[cfg(not(loom))]
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(loom)]
        let mut target = self.target.lock().unwrap();
        *target += 1;
        // Release: pairs with the Acquire in `quiescent`.
        self.words.store(TARGET, *target, Ordering::Release);
        *target
    }
}

impl<W: SharedWords> fmt::Debug for Grace<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grace").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// Words in the device's own memory.
pub struct Marks(Box<[Line]>);

#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; LINE]);

impl Marks {
    fn new(workers: usize) -> Self {
        Self((0..=workers).map(|_| Line::default()).collect())
    }

    #[inline]
    fn word(&self, word: usize) -> &AtomicU64 {
        &self.0[word / LINE].0[word % LINE]
    }
}

impl SharedWords for Marks {
    #[inline]
    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.word(word).load(order)
    }

    #[inline]
    fn store(&self, word: usize, value: u64, order: Ordering) {
        self.word(word).store(value, order);
    }

    #[inline]
    fn fence(&self, order: Ordering) {
        fence(order);
    }

    fn spin(&self) {
        std::thread::yield_now();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicPtr};

    /// A worker reads through a pointer while the control thread replaces and poisons the target.
    #[test]
    fn nothing_is_used_after_its_grace_period() {
        let grace = Arc::new(Grace::new(1));
        let values: Arc<[AtomicU64; 2]> = Arc::default();
        let current = Arc::new(AtomicPtr::new(std::ptr::from_ref(&values[0]).cast_mut()));
        let stop = Arc::new(AtomicBool::new(false));
        let worker = {
            let (grace, values, current, stop) =
                (grace.clone(), values.clone(), current.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut wakes = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    wakes += 1;
                    grace.wake(0);
                    for _ in 0..8 {
                        grace.quiescent(0);
                        let found = current.load(Ordering::Relaxed);
                        let value = values.iter().find(|v| std::ptr::eq(*v, found)).unwrap();
                        for _ in 0..4 {
                            assert_eq!(value.load(Ordering::Relaxed), 0, "used after its time");
                        }
                    }
                    grace.sleep(0);
                }
                wakes
            })
        };
        while grace.words.load(asleep(0), Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
        for round in 0..2000 {
            let (old, new) = (&values[round % 2], &values[(round + 1) % 2]);
            current.store(std::ptr::from_ref(new).cast_mut(), Ordering::Relaxed);
            grace.synchronize();
            old.store(1, Ordering::Relaxed);
            old.store(0, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(worker.join().unwrap() > 0);
    }
}
