// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ring of invalidated ranges: what it holds, what it cannot hold, and what a hostile guest may
//! write into it.

use proptest::prelude::*;
use vnic_iommu::quiesce::{Dropped, GuestPage, InvalidationReader, Invalidator, WorkerSlot};
use vnic_iommu::testing::anonymous_ram;
use vnic_iommu::{Gpa, GuestRam, Gva};

const EPOCHS: Gpa = Gpa(0);
const INVALIDATION: Gpa = Gpa(0x1000);

fn page(ram: &GuestRam, gpa: Gpa) -> GuestPage {
    GuestPage::new(ram, gpa).unwrap()
}

fn sync(reader: &mut InvalidationReader, ram: &GuestRam) -> Vec<Dropped> {
    let mut dropped = Vec::new();
    reader.sync(&page(ram, INVALIDATION), |what| dropped.push(what));
    dropped
}

fn range(start: u64, end: u64) -> Dropped {
    Dropped::Range { start: Gva(start), end: Gva(end) }
}

proptest! {
    /// The worker looks after any number of invalidations, again and again.
    #[test]
    fn every_range_is_reported_or_everything_is(
        batches in prop::collection::vec(prop::collection::vec((0..1u64 << 47, 1..1u64 << 30), 0..70), 1..8)
    ) {
        let ram = anonymous_ram(0x2000);
        let driver = Invalidator::new(page(&ram, INVALIDATION), page(&ram, EPOCHS));
        let mut reader = InvalidationReader::attach(&page(&ram, INVALIDATION));
        for batch in batches {
            for &(start, len) in &batch {
                driver.invalidate(start, start + len, || false).unwrap();
            }
            let mut dropped = sync(&mut reader, &ram);
            if batch.len() < 32 {
                dropped.reverse();
                let wanted: Vec<_> =
                    batch.iter().map(|&(start, len)| range(start, start + len)).collect();
                prop_assert_eq!(dropped, wanted);
            } else {
                prop_assert_eq!(dropped, [Dropped::All]);
            }
            prop_assert_eq!(sync(&mut reader, &ram), []);
        }
    }

    /// Whatever the page holds, reading it ends, and nothing odd passes as a range.
    #[test]
    fn hostile_pages_drop_everything(
        first in any::<u64>(), moves in prop::collection::vec((any::<i8>(), any::<bool>()), 1..20),
        words in prop::collection::vec(prop_oneof![any::<u64>(), 0..4u64, Just(u64::MAX)], 64),
    ) {
        let ram = anonymous_ram(0x2000);
        ram.write_u64(INVALIDATION, first).unwrap();
        for (index, word) in (0u64..).zip(words) {
            ram.write_u64(Gpa(INVALIDATION.0 + 64 + index * 8), word).unwrap();
        }
        let mut reader = InvalidationReader::attach(&page(&ram, INVALIDATION));
        let mut generation = first;
        for (by, back) in moves {
            let by = u64::from(by.unsigned_abs());
            generation = if back { generation.wrapping_sub(by) } else { generation.wrapping_add(by) };
            ram.write_u64(INVALIDATION, generation).unwrap();
            let dropped = sync(&mut reader, &ram);
            prop_assert!(dropped.len() < 32);
            prop_assert_eq!(dropped.is_empty(), by == 0);
            if by > 0 && (back || by >= 32) {
                prop_assert_eq!(&dropped, &[Dropped::All]);
            }
            for what in dropped {
                let odd = matches!(what, Dropped::Range { start, end } if start >= end);
                prop_assert!(!odd);
            }
        }
    }
}

#[test]
fn the_range_of_everything_is_everything() {
    let ram = anonymous_ram(0x2000);
    let driver = Invalidator::new(page(&ram, INVALIDATION), page(&ram, EPOCHS));
    let mut reader = InvalidationReader::attach(&page(&ram, INVALIDATION));
    driver.invalidate(0x1000, 0x2000, || false).unwrap();
    driver.invalidate(0, u64::MAX, || false).unwrap();
    assert_eq!(sync(&mut reader, &ram), [Dropped::All]);
}

/// The layout that drivers in other languages rely on.
#[test]
fn entries_lie_where_the_layout_says() {
    let ram = anonymous_ram(0x2000);
    let driver = Invalidator::new(page(&ram, INVALIDATION), page(&ram, EPOCHS));
    for generation in 1..=33u64 {
        driver.invalidate(generation << 12, (generation + 1) << 12, || false).unwrap();
        assert_eq!(ram.read_u64(INVALIDATION), Some(generation));
        let entry = INVALIDATION.0 + 64 + (generation - 1) % 32 * 16;
        assert_eq!(ram.read_u64(Gpa(entry)), Some(generation << 12));
        assert_eq!(ram.read_u64(Gpa(entry + 8)), Some((generation + 1) << 12));
    }
}

#[test]
fn only_busy_workers_are_waited_for_and_only_so_long() {
    let ram = anonymous_ram(0x2000);
    let driver = Invalidator::new(page(&ram, INVALIDATION), page(&ram, EPOCHS));
    let idle = WorkerSlot::new(page(&ram, EPOCHS), 3).unwrap();
    drop(idle.enter());
    driver.invalidate(0, 1, || panic!("waited for an idle device")).unwrap();

    let busy = WorkerSlot::new(page(&ram, EPOCHS), 63).unwrap();
    let burst = busy.enter();
    let mut looks = 0;
    let late = driver.invalidate(0, 1, || {
        looks += 1;
        looks < 10
    });
    assert_eq!((late.unwrap_err().worker, looks), (63, 10));

    // The worker leaves, and even enters again, while it is waited for.
    let mut burst = Some(burst);
    let mut again = None;
    driver
        .invalidate(0, 1, || {
            burst.take();
            again = Some(busy.enter());
            true
        })
        .unwrap();
}
