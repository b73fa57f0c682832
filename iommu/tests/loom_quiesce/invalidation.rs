// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages and page-table pages are taken away from a worker.

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::thread;
use vnic_iommu::quiesce::{GENERATION_WORD, Invalidator, RING_WORD, WorkerSlot};
use vnic_iommu::walk::x86_64::DIRTY;
use vnic_iommu::{Access, Gpa, Gva};

use super::shared::{
    ENTERING, FULL_FENCE, Frame, LEAVING, LOOKING, PUBLISHING, View, Without, check,
};
use super::tables::{
    CANARY, LEAF, LINK, NEIGHBOUR, NEXT_LEAF, NEXT_PAGE, PAGE, Tables, VA, Worker, entry,
};

/// The epoch page of one worker, and an invalidation page with `entries` of its ring, which hold
/// what was there a lap ago.
fn pages(entries: usize) -> (View, View) {
    let ring = (0..2 * entries).map(|word| (RING_WORD + word, 0x8000 + 0x1000 * word as u64));
    (View::page([(0, 0)]), View::page(std::iter::once((GENERATION_WORD, 0)).chain(ring)))
}

const fn page_of(va: Gva) -> (u64, u64) {
    (va.0, va.0 + 0x1000)
}

/// A worker runs `bursts` bursts on one page, which it has in its IOTLB if they are more than one,
/// while the driver takes the page away and gives it a new owner. A walk that has to mark the entry
/// meets the driver's exchange of it, and would be safe without fences; others have nothing but them.
fn page_is_taken_away(tables: fn() -> Tables, bursts: usize, worker: Without, driver: Without) {
    check(Some(4), move || {
        let (epochs, invalidation) = pages(1);
        let (tables, frame) = (tables(), Frame::new());
        let device = {
            let slot = WorkerSlot::new(epochs.without(worker), 0).unwrap();
            let mut worker = Worker::new(&tables, invalidation.without(worker));
            let frame = frame.clone();
            let run = move |worker: &mut Worker| {
                let burst = slot.enter();
                worker.sync(&burst);
                if worker.translate(&burst, VA, Access::Write).is_some() {
                    frame.access();
                }
                burst.leave();
            };
            if bursts > 1 {
                run(&mut worker);
            }
            thread::spawn(move || {
                for _ in 0..bursts {
                    run(&mut worker);
                }
            })
        };
        let invalidator = Invalidator::new(invalidation.without(driver), epochs.without(driver));
        tables.clear(LEAF);
        let (start, end) = page_of(VA);
        invalidator.invalidate(start, end, || true).unwrap();
        frame.reuse();
        device.join().unwrap();
    });
}

#[test]
fn a_walk_never_reaches_a_reused_page() {
    page_is_taken_away(Tables::marked, 1, Without::Nothing, Without::Nothing);
    page_is_taken_away(Tables::new, 1, Without::Nothing, Without::Nothing);
}

#[test]
fn a_cached_translation_never_reaches_a_reused_page() {
    page_is_taken_away(Tables::marked, 2, Without::Nothing, Without::Nothing);
    page_is_taken_away(Tables::new, 2, Without::Nothing, Without::Nothing);
}

#[test]
#[should_panic = "Causality violation"]
fn d2_is_needed_for_walks() {
    page_is_taken_away(Tables::marked, 1, FULL_FENCE, Without::Nothing);
}

#[test]
#[should_panic = "Causality violation"]
fn d2_is_needed_for_cached_translations() {
    page_is_taken_away(Tables::marked, 2, FULL_FENCE, Without::Nothing);
}

#[test]
#[should_panic = "Causality violation"]
fn g3_is_needed() {
    page_is_taken_away(Tables::marked, 1, Without::Nothing, FULL_FENCE);
}

#[test]
#[should_panic = "Causality violation"]
fn d1_has_to_carry_the_burst_before() {
    page_is_taken_away(Tables::marked, 2, ENTERING, Without::Nothing);
}

#[test]
#[should_panic = "Causality violation"]
fn d5_has_to_carry_the_accesses() {
    page_is_taken_away(Tables::marked, 1, LEAVING, Without::Nothing);
}

#[test]
#[should_panic = "Causality violation"]
fn g4_has_to_take_the_accesses_in() {
    page_is_taken_away(Tables::marked, 1, Without::Nothing, LOOKING);
}

/// A worker that takes a new generation for an old range finds its translation in the burst after, for
/// which the driver does not wait any more.
#[test]
#[should_panic = "Causality violation"]
fn g2_has_to_carry_the_ring_entry() {
    page_is_taken_away(Tables::marked, 2, Without::Nothing, PUBLISHING);
}

#[test]
#[should_panic = "Causality violation"]
fn d3_has_to_take_the_ring_entry_in() {
    page_is_taken_away(Tables::marked, 2, LOOKING, Without::Nothing);
}

/// The driver frees the last table, entries and all, and fills it with something else that looks
/// like entries. No walk follows them, and none marks them.
fn table_is_reused(worker: Without, driver: Without) {
    check(Some(4), move || {
        let (epochs, invalidation) = pages(1);
        let tables = Tables::freeable();
        let device = {
            let slot = WorkerSlot::new(epochs.without(worker), 0).unwrap();
            let mut worker = Worker::new(&tables, invalidation.without(worker));
            thread::spawn(move || {
                let burst = slot.enter();
                worker.sync(&burst);
                let found = worker.translate(&burst, VA, Access::Write);
                assert_ne!(found, Some(CANARY), "a walk through a reused table");
                burst.leave();
            })
        };
        let invalidator = Invalidator::new(invalidation.without(driver), epochs.without(driver));
        tables.clear(LINK);
        invalidator.invalidate(0, 2 << 20, || true).unwrap();
        let content = entry(CANARY.0);
        tables.at(LEAF).store(content, Ordering::Relaxed);
        device.join().unwrap();
        let now = tables.at(LEAF).load(Ordering::Relaxed);
        assert_eq!(now, content, "a mark in a reused table");
    });
}

#[test]
fn a_reused_table_is_neither_followed_nor_marked() {
    table_is_reused(Without::Nothing, Without::Nothing);
}

#[test]
#[should_panic = "a reused table"]
fn d2_is_needed_for_tables() {
    table_is_reused(FULL_FENCE, Without::Nothing);
}

#[test]
#[should_panic = "a reused table"]
fn g3_is_needed_for_tables() {
    table_is_reused(Without::Nothing, FULL_FENCE);
}

/// The driver clears an entry that the device marks: whoever is first, a write is not forgotten, and
/// what was cleared stays so.
fn entry_is_cleared(tables: fn() -> Tables) {
    check(None, move || {
        let (epochs, invalidation) = pages(1);
        let tables = tables();
        let written = Arc::new(AtomicBool::new(false));
        let device = {
            let slot = WorkerSlot::new(epochs.clone(), 0).unwrap();
            let mut worker = Worker::new(&tables, invalidation.clone());
            let written = written.clone();
            thread::spawn(move || {
                let burst = slot.enter();
                worker.sync(&burst);
                if worker.translate(&burst, VA, Access::Write).is_some() {
                    written.store(true, Ordering::Relaxed);
                }
                burst.leave();
            })
        };
        let invalidator = Invalidator::new(invalidation, epochs);
        let old = tables.clear(LEAF);
        let (start, end) = page_of(VA);
        invalidator.invalidate(start, end, || true).unwrap();
        let marked = old & DIRTY != 0;
        let wrote = written.load(Ordering::Relaxed);
        assert!(marked || !wrote, "a write that nobody knows of");
        device.join().unwrap();
        assert_eq!(tables.at(LEAF).load(Ordering::Relaxed), 0, "a cleared entry came back");
    });
}

#[test]
fn a_write_is_marked_or_does_not_happen() {
    entry_is_cleared(Tables::new);
}

#[test]
#[should_panic]
fn marks_have_to_be_compared_and_swapped() {
    entry_is_cleared(Tables::sloppy);
}

/// Two processors take a page away each while a worker, which has both in its IOTLB, runs a burst.
fn two_processors(worker: Without, driver: Without) {
    check(Some(1), move || {
        let (epochs, invalidation) = pages(2);
        let tables = Tables::marked();
        let frames = [(VA, LEAF, PAGE), (NEIGHBOUR, NEXT_LEAF, NEXT_PAGE)]
            .map(|(va, leaf, page)| (va, leaf, page, Frame::new()));
        let slot = WorkerSlot::new(epochs.without(worker), 0).unwrap();
        let mut device = Worker::new(&tables, invalidation.without(worker));
        let run = |device: &mut Worker, frames: &[(Gva, Gpa, Gpa, Frame); 2]| {
            let burst = slot.enter();
            device.sync(&burst);
            for (va, _, page, frame) in frames {
                if let Some(found) = device.translate(&burst, *va, Access::Write) {
                    assert_eq!(found, *page);
                    frame.access();
                }
            }
            burst.leave();
        };
        run(&mut device, &frames);
        let invalidator =
            Arc::new(Invalidator::new(invalidation.without(driver), epochs.without(driver)));
        let drivers = frames.clone().map(|(va, leaf, _, frame)| {
            let (tables, invalidator) = (tables.clone(), invalidator.clone());
            thread::spawn(move || {
                tables.clear(leaf);
                let (start, end) = page_of(va);
                invalidator.invalidate(start, end, || true).unwrap();
                frame.reuse();
            })
        });
        run(&mut device, &frames);
        for driver in drivers {
            driver.join().unwrap();
        }
    });
}

#[test]
fn two_processors_may_invalidate_at_once() {
    two_processors(Without::Nothing, Without::Nothing);
}

#[test]
#[should_panic]
fn d2_is_needed_with_two_processors() {
    two_processors(FULL_FENCE, Without::Nothing);
}

#[test]
#[should_panic]
fn g3_is_needed_on_both_processors() {
    two_processors(Without::Nothing, FULL_FENCE);
}
