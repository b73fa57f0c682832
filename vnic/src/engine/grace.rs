// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Grace periods: how a control thread knows that no worker still uses what it removed.
//!
//! A worker announces once per scheduling pass that it holds nothing from earlier passes. A worker
//! that sleeps holds nothing either. So removing is: take it out of the tables, wait for a pass of
//! every worker that is awake, free. Workers take no lock for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Duration;

/// Looks at the workers before the waiting thread begins to sleep between looks. A pass takes some
/// ten microseconds.
const EAGER_LOOKS: u32 = 200;

/// One worker's announcement, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Mark {
    seen: AtomicU64,
    asleep: AtomicBool,
}

/// Announcements of all workers.
#[derive(Debug)]
pub struct Grace {
    target: AtomicU64,
    marks: Box<[Mark]>,
}

impl Grace {
    /// For `workers` workers, all of them asleep.
    pub fn new(workers: usize) -> Self {
        let asleep = || Mark { seen: AtomicU64::new(0), asleep: AtomicBool::new(true) };
        Self { target: AtomicU64::new(0), marks: (0..workers).map(|_| asleep()).collect() }
    }

    /// The worker holds nothing that it found before this call.
    #[inline]
    pub fn quiescent(&self, worker: usize) {
        // Acquire: pairs with the SeqCst increment; what was removed before it is seen as removed.
        let target = self.target.load(Ordering::Acquire);
        // Release: pairs with the Acquire in `synchronize`; earlier accesses are over.
        self.marks[worker].seen.store(target, Ordering::Release);
    }

    /// The worker holds nothing and will not look for anything before [`Self::wake`].
    pub fn sleep(&self, worker: usize) {
        // SeqCst: as a Release it ends earlier accesses for whoever reads it in `synchronize`.
        self.marks[worker].asleep.store(true, Ordering::SeqCst);
    }

    /// The worker begins to look again.
    pub fn wake(&self, worker: usize) {
        self.marks[worker].asleep.store(false, Ordering::SeqCst);
        // SeqCst: pairs with the fence in `synchronize`. Either that call sees the worker awake, or
        // the worker sees everything as removed that was removed before the call.
        fence(Ordering::SeqCst);
    }

    /// Waits until no worker uses anything that was removed before the call.
    ///
    /// Never call it from a worker.
    pub fn synchronize(&self) {
        let target = self.target.fetch_add(1, Ordering::SeqCst) + 1;
        // SeqCst: pairs with the fence in `wake`.
        fence(Ordering::SeqCst);
        for mark in &self.marks {
            let mut looks = 0;
            // Acquire: pairs with the Release in `quiescent`, and with the store in `sleep`.
            while mark.seen.load(Ordering::Acquire) < target && !mark.asleep.load(Ordering::SeqCst)
            {
                looks += 1;
                if looks < EAGER_LOOKS {
                    std::thread::yield_now();
                } else {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicPtr;

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
        while grace.marks[0].asleep.load(Ordering::SeqCst) {
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
