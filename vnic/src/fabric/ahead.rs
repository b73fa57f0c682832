// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a request will miss beside the page at which it stopped.

use crate::engine::wait::Side;
use vnic_iommu::addr::{Gva, PAGE_SHIFT, PAGE_SIZE};
use vnic_iommu::walk::Access;

/// Ranges that one look ahead finds, at most: every entry of both lists.
const MOST_RANGES: usize = 32;

/// Bytes that a request will need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// On which side.
    pub side: Side,
    /// First byte.
    pub va: Gva,
    /// Bytes.
    pub len: u64,
    /// End of the region.
    pub limit: Gva,
    /// What for.
    pub access: Access,
}

impl Needed {
    fn end(&self) -> Gva {
        Gva(self.va.0.saturating_add(self.len))
    }

    /// Makes `next` part of this, if it begins where this ends.
    fn join(&mut self, next: &Self) -> bool {
        let end = self.end().checked_align_up(PAGE_SHIFT);
        let touches = (self.side, self.access) == (next.side, next.access)
            && self.va <= next.va
            && end.is_some_and(|end| next.va.align_down(PAGE_SHIFT) <= end);
        if touches {
            self.len = next.end().max(self.end()).0 - self.va.0;
            self.limit = self.limit.max(next.limit);
        }
        touches
    }
}

/// What a look ahead found. Reused, so that it allocates once.
#[derive(Debug)]
pub struct Ahead {
    /// Whether to look ahead at all.
    pub enabled: bool,
    ranges: Vec<Needed>,
}

impl Ahead {
    /// Nothing found yet.
    pub fn new(enabled: bool) -> Self {
        Self { enabled, ranges: Vec::new() }
    }

    /// Forgets what was found before.
    pub fn begin(&mut self) {
        self.ranges.clear();
    }

    /// Adds what is missing of `needed`, from the first page that is not `there` to the last. `false`
    /// if there is no room for more.
    pub fn look(&mut self, needed: Needed, there: impl Fn(Gva) -> bool) -> bool {
        let mut missing: Option<Needed> = None;
        let (mut at, end) = (needed.va, needed.end());
        while at < end {
            let next = Gva(at.align_down(PAGE_SHIFT).0.saturating_add(PAGE_SIZE)).min(end);
            if !there(at) {
                let first = missing.map_or(at, |range| range.va);
                missing = Some(Needed { va: first, len: next.0 - first.0, ..needed });
            }
            at = next;
        }
        let Some(missing) = missing else { return true };
        if !self.ranges.last_mut().is_some_and(|last| last.join(&missing)) {
            self.ranges.push(missing);
        }
        self.ranges.len() < MOST_RANGES
    }

    /// Takes out the range at whose first page a request stopped, and returns its length from `va`
    /// on.
    pub fn take_first(&mut self, side: Side, va: Gva, access: Access) -> Option<u64> {
        let page = |va: Gva| va.align_down(PAGE_SHIFT);
        let index = self.ranges.iter().position(|range| {
            (range.side, range.access, page(range.va)) == (side, access, page(va))
        })?;
        let range = self.ranges.remove(index);
        Some(range.end().0.saturating_sub(va.0).max(1))
    }

    /// Whether there is but one range on `side`, if the one that was taken out is on the side
    /// `taken`. Several are no walk through memory. Nothing is if looking ahead is off.
    pub fn is_alone(&self, side: Side, taken: Side) -> bool {
        let found = self.ranges.iter().filter(|range| range.side == side).count();
        self.enabled && found + usize::from(side == taken) == 1
    }

    /// What was found and not taken out.
    pub fn ranges(&self) -> &[Needed] {
        &self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(va: u64, len: u64) -> Needed {
        let (side, access) = (Side::Local, Access::Read);
        Needed { side, va: Gva(va), len, limit: Gva(1 << 30), access }
    }

    fn found(ahead: &Ahead) -> Vec<(u64, u64)> {
        ahead.ranges().iter().map(|range| (range.va.0, range.len)).collect()
    }

    #[test]
    fn a_range_goes_from_the_first_missing_page_to_the_last() {
        let mut ahead = Ahead::new(true);
        let there = |va: Gva| [1, 4, 7].contains(&(va.0 >> 12));
        assert!(ahead.look(needed(0x1800, 0x6000), there));
        assert_eq!(found(&ahead), [(0x2000, 0x5000)]);
        assert!(ahead.look(needed(0x1000, 0x1000), there));
        assert!(ahead.look(needed(0x4fff, 1), there));
        assert_eq!(found(&ahead).len(), 1, "nothing missing there");
        assert!(ahead.look(needed(0x9010, 5), there));
        assert_eq!(found(&ahead)[1], (0x9010, 5));
    }

    #[test]
    fn neighbours_become_one_range() {
        let mut ahead = Ahead::new(true);
        for n in 0..16 {
            assert!(ahead.look(needed(0x10_0000 + n * 0x800, 0x800), |_| false));
        }
        assert_eq!(found(&ahead), [(0x10_0000, 0x8000)]);
        let other = Needed { side: Side::Remote, ..needed(0x10_8000, 8) };
        ahead.look(other, |_| false);
        // Elsewhere, before, and in the same page again.
        ahead.look(needed(0x20_0000, 8), |_| false);
        ahead.look(needed(0x1f_0000, 8), |_| false);
        ahead.look(needed(0x1f_0100, 8), |_| false);
        assert_eq!(found(&ahead)[1..], [(0x10_8000, 8), (0x20_0000, 8), (0x1f_0000, 0x108)]);
        assert_eq!(ahead.take_first(Side::Local, Gva(0x20_0004), Access::Read), Some(4));
        assert_eq!(ahead.take_first(Side::Local, Gva(0x20_0004), Access::Read), None);
        assert_eq!(ahead.take_first(Side::Remote, Gva(0x10_8000), Access::Write), None);
    }

    #[test]
    fn there_is_an_end_to_what_is_found() {
        let mut ahead = Ahead::new(true);
        let mut looks = 0;
        while ahead.look(needed(looks * 0x10_0000, 8), |_| false) {
            looks += 1;
        }
        assert_eq!(found(&ahead).len(), MOST_RANGES);
        let end = needed(u64::MAX - 10, 10);
        ahead.begin();
        assert!(ahead.look(end, |_| false));
        assert_eq!(found(&ahead), [(u64::MAX - 10, 10)]);
    }
}
