// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ring of ranges is overwritten while a worker reads it.

use std::sync::atomic::Ordering;

use loom::thread;
use vnic_iommu::Gva;
use vnic_iommu::quiesce::{
    Dropped, GENERATION_WORD, InvalidationReader, Invalidator, RING_WORD, SharedWords,
};

use super::shared::{FULL_FENCE, RECORDING, View, Without, check};

/// The worker is 31 generations behind, which is all that it can catch up with, while the driver
/// writes two more entries; the second takes the place of the oldest that the worker needs.
fn ring_is_overwritten(worker: Without, driver: Without) {
    const WANTED: (u64, u64) = (0x1000, 0x2000);
    check(Some(4), move || {
        let epochs = View::page([(0, 0)]);
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
        // Writers of the ring on different CPUs have a lock between them, not the fence of the wait.
        let other_cpu = epochs.without(FULL_FENCE);
        let invalidator = Invalidator::new(invalidation.without(driver), other_cpu);
        for _ in 0..2 {
            invalidator.invalidate(0x8000, 0x9000, || false).unwrap();
        }
        device.join().unwrap();
    });
}

#[test]
fn an_overwritten_entry_is_noticed() {
    ring_is_overwritten(Without::Nothing, Without::Nothing);
}

#[test]
#[should_panic = "an invalidation was lost"]
fn the_second_look_needs_its_fence() {
    ring_is_overwritten(Without::Fence(Ordering::Acquire), Without::Nothing);
}

#[test]
#[should_panic = "an invalidation was lost"]
fn entries_have_to_carry_the_generations_before() {
    ring_is_overwritten(Without::Nothing, RECORDING);
}
