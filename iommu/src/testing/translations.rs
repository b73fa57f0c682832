// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A load for measuring what a translation costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::{PageTableBuilder, anonymous_ram};
use crate::addr::{Gpa, Gva, LARGE_PAGE_SHIFT, PAGE_SHIFT};
use crate::iotlb::IotlbSize;
use crate::quiesce::{GuestPage, WorkerSlot};
use crate::walk::x86_64::{USER, WRITABLE};
use crate::{Access, AddressSpace, PagingMode, Translator};

/// What is translated, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Entering and leaving a burst, with one page of 4 KiB found in the IOTLB.
    Burst,
    /// One page of 4 KiB, found in the IOTLB.
    HitSmall,
    /// A thousand pages of 4 KiB in turn, all found in the IOTLB.
    HitManySmall,
    /// One page of 2 MiB, found in the IOTLB.
    HitLarge,
    /// Pages of 4 KiB that the IOTLB has not; their entries are in the processor's cache.
    MissSmallHot,
    /// The same with entries that the processor has to fetch from memory.
    MissSmallCold,
    /// Pages of 2 MiB that the IOTLB has not; their entries are in the processor's cache.
    MissLargeHot,
    /// The same with entries that the processor has to fetch from memory.
    MissLargeCold,
}

impl Translation {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Burst,
        Self::HitSmall,
        Self::HitManySmall,
        Self::HitLarge,
        Self::MissSmallHot,
        Self::MissSmallCold,
        Self::MissLargeHot,
        Self::MissLargeCold,
    ];
}

/// Pages that are walked with their entries cached: these entries fill 8 KiB.
const HOT: u64 = 1024;

/// Entries in a cache line. One entry of each line is used, so that no walk warms another's entry.
const ENTRIES_PER_LINE: u64 = 8;

/// Addresses of the three kinds of pages; far apart, so that they share no table but the root.
const HOT_SMALL: u64 = 0x10_0000_0000;
const COLD_SMALL: u64 = 0x20_0000_0000;
const LARGE: u64 = 0x1000_0000_0000;

/// An odd number: its multiples visit every entry of a table of a power of two, and no prefetcher
/// of a processor follows them.
const STRIDE: u64 = 0x9e37_79b1;

/// Tables and translators that belong to one worker of one guest.
#[derive(Debug)]
pub struct Translations {
    space: AddressSpace,
    slot: WorkerSlot,
    roomy: Translator,
    /// Far smaller than what is translated with it, so that every translation misses.
    tiny: Translator,
    cold: u64,
    next: u64,
}

impl Translations {
    /// Builds tables in which the leaf entries of the cold pages lie in `lines` cache lines of 64
    /// bytes, for each size of pages; `lines` is rounded up to a power of two. Choose more than fit
    /// into the processor's cache.
    ///
    /// # Panics
    ///
    /// If there is not memory enough.
    pub fn new(lines: u64) -> Self {
        let cold = lines.next_power_of_two().max(HOT);
        // A table holds 64 lines of entries; some more tables lead to them.
        let frames = 2 * (cold / 64 + cold / (64 << 9)) + 64;
        let tables = Gpa(4 << LARGE_PAGE_SHIFT);
        let end = Gpa(tables.0 + (frames << PAGE_SHIFT));
        let ram = anonymous_ram(end.0 as usize);
        let mode = PagingMode::Level4;
        let table = PageTableBuilder::new(&ram, mode, tables, end).expect("room for tables");
        let map = |va, shift| {
            let data = Gpa(1 << LARGE_PAGE_SHIFT);
            table.map(Gva(va), data, shift, USER | WRITABLE).expect("room for tables");
        };
        (0..HOT).for_each(|page| map(hot_address(page), PAGE_SHIFT));
        for line in 0..cold {
            map(cold_address(COLD_SMALL, line, PAGE_SHIFT), PAGE_SHIFT);
            map(cold_address(LARGE, line, LARGE_PAGE_SHIFT), LARGE_PAGE_SHIFT);
        }
        let page = GuestPage::new(&ram, Gpa(0)).expect("a page of RAM");
        let slot = WorkerSlot::new(page, 0).expect("the first slot");
        let space = AddressSpace::new(1, ram, table.root(), mode, Gpa(0x1000)).expect("own pages");
        let tiny = Translator::new(IotlbSize { small: 4, large: 4 });
        let mut load = Self { space, slot, roomy: Translator::default(), tiny, cold, next: 0 };
        // Every entry is marked as accessed and dirty from now on, as that of a page in use is.
        for what in Translation::ALL {
            let _ = load.run(what, load.cold);
        }
        load
    }

    /// Bytes of cache that the cold leaf entries of one size of pages would need.
    pub fn cold_bytes(&self) -> u64 {
        self.cold * 64
    }

    /// Translates `times` times and returns how long it all took.
    ///
    /// # Panics
    ///
    /// If a translation fails, or hits where it should miss or the other way round: none does.
    pub fn run(&mut self, what: Translation, times: u64) -> Duration {
        use Translation::*;
        let from = self.next;
        self.next += times;
        let cold = self.cold;
        // A function of its own for each, so that no choice is made between two translations.
        match what {
            Burst => self.bursts(times),
            HitSmall => self.hits(times, |_| HOT_SMALL),
            HitManySmall => self.hits(times, move |i| hot_address(i + from)),
            HitLarge => self.hits(times, |_| LARGE),
            MissSmallHot => self.misses(times, move |i| hot_address(i + from)),
            MissLargeHot => {
                self.misses(times, move |i| cold_address(LARGE, (i + from) % 128, LARGE_PAGE_SHIFT))
            }
            MissSmallCold => self.misses(times, move |i| {
                cold_address(COLD_SMALL, scattered(i + from, cold), PAGE_SHIFT)
            }),
            MissLargeCold => self.misses(times, move |i| {
                cold_address(LARGE, scattered(i + from, cold), LARGE_PAGE_SHIFT)
            }),
        }
    }

    fn bursts(&mut self, times: u64) -> Duration {
        let since = Instant::now();
        for _ in 0..times {
            let burst = self.slot.enter();
            translate(&mut self.roomy, &burst, &self.space, black_box(HOT_SMALL));
        }
        since.elapsed()
    }

    fn hits(&mut self, times: u64, address: impl Fn(u64) -> u64) -> Duration {
        let walks = self.roomy.stats().walks;
        let took = measured(&mut self.roomy, &self.slot, &self.space, times, address);
        let walked = self.roomy.stats().walks - walks;
        assert!(walked <= HOT, "{walked} of {times} walked");
        took
    }

    fn misses(&mut self, times: u64, address: impl Fn(u64) -> u64) -> Duration {
        let walks = self.tiny.stats().walks;
        let took = measured(&mut self.tiny, &self.slot, &self.space, times, address);
        let walked = self.tiny.stats().walks - walks;
        assert!(walked + 8 >= times, "only {walked} of {times} walked");
        took
    }
}

/// The address whose leaf entry is the first of cache line `line` of the leaf tables at `base`.
const fn cold_address(base: u64, line: u64, shift: u32) -> u64 {
    base + ((line * ENTRIES_PER_LINE) << shift)
}

const fn hot_address(index: u64) -> u64 {
    HOT_SMALL + ((index % HOT) << PAGE_SHIFT)
}

/// One of `count`, a power of two: each in turn, in no order that a processor foresees.
const fn scattered(index: u64, count: u64) -> u64 {
    index.wrapping_mul(STRIDE) & (count - 1)
}

#[inline(always)]
fn measured(
    translator: &mut Translator,
    slot: &WorkerSlot,
    space: &AddressSpace,
    times: u64,
    address: impl Fn(u64) -> u64,
) -> Duration {
    let burst = slot.enter();
    let since = Instant::now();
    for i in 0..times {
        translate(translator, &burst, space, black_box(address(i)));
    }
    since.elapsed()
}

#[inline(always)]
fn translate(translator: &mut Translator, burst: &crate::Burst<'_>, space: &AddressSpace, va: u64) {
    let chunk = translator.translate(burst, space, Gva(va), 64, Access::Write);
    black_box(chunk.expect("a mapped page").as_ptr());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_hit_and_misses_miss() {
        let mut load = Translations::new(HOT);
        for what in Translation::ALL {
            let before = (load.roomy.stats().walks, load.tiny.stats().walks);
            load.run(what, 3000);
            let (roomy, tiny) =
                (load.roomy.stats().walks - before.0, load.tiny.stats().walks - before.1);
            let misses = matches!(
                what,
                Translation::MissSmallHot
                    | Translation::MissSmallCold
                    | Translation::MissLargeHot
                    | Translation::MissLargeCold
            );
            assert_eq!((roomy, tiny > 2900), (0, misses), "{what:?}");
        }
    }
}
