// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lock of a queue. Verbs may be called from every thread of the program.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

/// Rounds to spin before the processor is given away. The holder's work takes well under that, unless
/// it was preempted.
const SPINS: u32 = 1000;

/// A value behind a spin lock, which takes no system call unless its holder was preempted.
///
/// The lock does nothing if the program promised to use the queue from one thread at a time.
pub(crate) struct Lock<T> {
    held: AtomicBool,
    single_threaded: bool,
    value: UnsafeCell<T>,
}

impl<T> Lock<T> {
    pub(crate) fn new(value: T, single_threaded: bool) -> Self {
        Self { held: AtomicBool::new(false), single_threaded, value: UnsafeCell::new(value) }
    }

    /// Calls `f` with the value, and nobody else in it.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        self.acquire();
        // SAFETY: the lock is held, and released only after the call.
        let result = f(unsafe { self.get() });
        // SAFETY: acquired above.
        unsafe { self.release() };
        result
    }

    /// Takes the lock, for operations that begin and end in different calls of the program.
    pub(crate) fn acquire(&self) {
        if self.single_threaded {
            return;
        }
        let mut spins = 0;
        // Acquire: pairs with the releasing store in `release`, so that what the last holder did is
        // visible.
        while self.held.swap(true, Ordering::Acquire) {
            // Relaxed: only tells when to try again.
            while self.held.load(Ordering::Relaxed) {
                spins += 1;
                if spins < SPINS {
                    spin_loop();
                } else {
                    std::thread::yield_now();
                }
            }
        }
    }

    /// # Safety
    /// The caller took the lock and uses what [`get`](Self::get) returned no longer.
    pub(crate) unsafe fn release(&self) {
        if !self.single_threaded {
            // Release: pairs with the acquiring swap in `acquire`.
            self.held.store(false, Ordering::Release);
        }
    }

    /// The value.
    ///
    /// # Safety
    /// The caller holds the lock, and has no other reference to the value.
    #[allow(clippy::mut_from_ref, reason = "the lock makes it exclusive")]
    pub(crate) unsafe fn get(&self) -> &mut T {
        // SAFETY: exclusive by the caller's promise.
        unsafe { &mut *self.value.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lock that threads of a test share.
    struct Shared(Lock<u32>);
    // SAFETY: the value is reached through the lock.
    unsafe impl Sync for Shared {}

    #[test]
    fn one_thread_at_a_time_has_the_value() {
        let shared = Shared(Lock::new(0, false));
        let shared = &shared;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    for _ in 0..500 {
                        shared.0.with(|value| {
                            let seen = *value;
                            // Invites another thread in between.
                            std::thread::yield_now();
                            *value = seen + 1;
                        });
                    }
                });
            }
        });
        assert_eq!(shared.0.with(|value| *value), 2000);
    }
}
