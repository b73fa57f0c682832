// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The epoch protocol under a model checker: every interleaving and every reordering that the memory
//! model allows, of one worker and one driver.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vnic-iommu --release --test loom_quiesce`
#![cfg(loom)]

use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;
use vnic_iommu::Gva;
use vnic_iommu::quiesce::{
    Dropped, GENERATION_WORD, InvalidationReader, Invalidator, RING_WORD, SharedWords, WorkerSlot,
};

/// What a side leaves out, to see that the model misses it.
#[derive(Clone, Copy)]
struct Without {
    seqcst_fence: bool,
    acquire_fence: bool,
    ring_release: bool,
    entering_release: bool,
}

const COMPLETE: Without = Without {
    seqcst_fence: false,
    acquire_fence: false,
    ring_release: false,
    entering_release: false,
};

/// One side's view of a shared page.
#[derive(Clone)]
struct View {
    /// The words that matter; every other one is always 0, and costs the model nothing.
    words: Arc<Vec<(usize, AtomicU64)>>,
    without: Without,
}

impl View {
    fn page(words: impl Iterator<Item = (usize, u64)>) -> Self {
        let words = words.map(|(word, value)| (word, AtomicU64::new(value))).collect();
        Self { words: Arc::new(words), without: COMPLETE }
    }

    fn without(&self, without: Without) -> Self {
        Self { words: self.words.clone(), without }
    }

    fn word(&self, word: usize) -> Option<&AtomicU64> {
        self.words.iter().find(|(index, _)| *index == word).map(|(_, value)| value)
    }
}

impl SharedWords for View {
    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.word(word).map_or(0, |value| value.load(order))
    }

    fn store(&self, word: usize, value: u64, order: Ordering) {
        let weak = self.without.ring_release && word >= RING_WORD
            || self.without.entering_release && value % 2 == 1;
        let order = if weak { Ordering::Relaxed } else { order };
        self.word(word).expect("a word of the model").store(value, order);
    }

    fn fence(&self, order: Ordering) {
        let skipped = match order {
            Ordering::SeqCst => self.without.seqcst_fence,
            Ordering::Acquire => self.without.acquire_fence,
            _ => false,
        };
        if !skipped {
            fence(order);
        }
    }

    fn spin(&self) {
        thread::yield_now();
    }
}

fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

const MINE: u64 = 0;
const POISON: u64 = 0xdead;

/// A worker runs `bursts` bursts on one page, caching its translation from one to the next, while the
/// driver takes the page away and gives it a new owner. The cell reports any access that the
/// protocol does not order, and the value any that comes too late.
fn page_is_taken_away(bursts: usize, worker: Without, driver: Without) {
    check(None, move || {
        let epochs = View::page([(0, 0)].into_iter());
        let ring = [GENERATION_WORD, RING_WORD, RING_WORD + 1];
        let invalidation = View::page(ring.map(|word| (word, 0)).into_iter());
        let entry = Arc::new(AtomicU64::new(1));
        let page = Arc::new(UnsafeCell::new(MINE));

        let device = {
            let slot = WorkerSlot::new(epochs.without(worker), 0).unwrap();
            let invalidation = invalidation.without(worker);
            let (entry, page) = (entry.clone(), page.clone());
            thread::spawn(move || {
                let mut reader = None;
                let mut cached = false;
                for _ in 0..bursts {
                    let burst = slot.enter();
                    reader
                        .get_or_insert_with(|| InvalidationReader::attach(&invalidation))
                        .sync(&invalidation, |_| cached = false);
                    cached = cached || entry.load(Ordering::Acquire) == 1;
                    if cached {
                        #[allow(unsafe_code)] // reason: the cell is the model's detector
                        // SAFETY: a data race here is what the model looks for.
                        page.with(|value| assert_eq!(unsafe { *value }, MINE));
                    }
                    burst.leave();
                }
            })
        };

        let invalidator = Invalidator::new(invalidation, epochs.without(driver));
        entry.store(0, Ordering::Relaxed);
        invalidator.invalidate(0x1000, 0x2000, || true).unwrap();
        #[allow(unsafe_code)] // reason: the cell is the model's detector
        // SAFETY: a data race here is what the model looks for.
        page.with_mut(|value| unsafe { *value = POISON });
        device.join().unwrap();
    });
}

#[test]
fn a_walk_never_reaches_a_reused_page() {
    page_is_taken_away(1, COMPLETE, COMPLETE);
}

#[test]
fn a_cached_translation_never_reaches_a_reused_page() {
    page_is_taken_away(2, COMPLETE, COMPLETE);
}

#[test]
#[should_panic = "Causality violation"]
fn the_model_misses_the_workers_fence() {
    page_is_taken_away(1, Without { seqcst_fence: true, ..COMPLETE }, COMPLETE);
}

#[test]
#[should_panic = "Causality violation"]
fn the_model_misses_the_drivers_fence() {
    page_is_taken_away(1, COMPLETE, Without { seqcst_fence: true, ..COMPLETE });
}

#[test]
#[should_panic = "Causality violation"]
fn the_model_misses_the_release_on_entering() {
    page_is_taken_away(2, Without { entering_release: true, ..COMPLETE }, COMPLETE);
}

/// The worker is 31 generations behind, which is all that it can catch up with, while the driver
/// writes two more entries; the second takes the place of the oldest that the worker needs.
fn ring_is_overwritten(worker: Without, driver: Without) {
    const WANTED: (u64, u64) = (0x1000, 0x2000);
    check(Some(3), move || {
        let epochs = View::page([(0, 0)].into_iter());
        let oldest = [(RING_WORD, WANTED.0), (RING_WORD + 1, WANTED.1)];
        let others = (1..32).flat_map(|entry| {
            let word = RING_WORD + 2 * entry;
            [(word, 0x8000), (word + 1, 0x9000)]
        });
        let ring = oldest.into_iter().chain(others);
        let invalidation = View::page([(GENERATION_WORD, 0)].into_iter().chain(ring));
        let mut reader = InvalidationReader::attach(&invalidation);
        invalidation.store(GENERATION_WORD, 31, Ordering::Relaxed);

        let device = {
            let invalidation = invalidation.without(worker);
            thread::spawn(move || {
                let mut dropped = false;
                reader.sync(&invalidation, |what| {
                    dropped |= match what {
                        Dropped::All => true,
                        Dropped::Range { start, end } => {
                            (start, end) == (Gva(WANTED.0), Gva(WANTED.1))
                        }
                    };
                });
                assert!(dropped, "an invalidation was lost");
            })
        };
        let invalidator = Invalidator::new(invalidation.without(driver), epochs.without(driver));
        for _ in 0..2 {
            invalidator.invalidate(0x8000, 0x9000, || false).unwrap();
        }
        device.join().unwrap();
    });
}

/// Writers of the ring on different CPUs have a lock between them, not the fence of the wait.
const OTHER_CPU: Without = Without { seqcst_fence: true, ..COMPLETE };

#[test]
fn an_overwritten_entry_is_noticed() {
    ring_is_overwritten(COMPLETE, OTHER_CPU);
}

#[test]
#[should_panic = "an invalidation was lost"]
fn the_model_misses_the_readers_fence() {
    ring_is_overwritten(Without { acquire_fence: true, ..COMPLETE }, OTHER_CPU);
}

#[test]
#[should_panic = "an invalidation was lost"]
fn the_model_misses_the_release_of_ring_entries() {
    ring_is_overwritten(COMPLETE, Without { ring_release: true, ..OTHER_CPU });
}
