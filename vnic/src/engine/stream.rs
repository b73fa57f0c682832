// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Prefetching in order: a queue pair whose requests walk through memory gets pages asked for that
//! lie ahead of it, the more the longer it walks.

use vnic_iommu::addr::{Gva, PAGE_SHIFT, PAGE_SIZE};

/// Bytes that one page request asks for, at most: enough to make a long transfer wait seldom, little
/// enough not to fill the guest's memory before the first byte is used.
pub const MOST: u64 = 1 << 20;
/// Bytes ahead of the first request that goes on where the one before ended.
const LEAST: u64 = 4 * PAGE_SIZE;

/// What a queue pair asked for last on one side.
#[derive(Debug, Default)]
pub struct Stream {
    start: Gva,
    end: Gva,
    window: u64,
}

impl Stream {
    /// How many bytes to ask for from `va` on, in whole pages, if `need` of them are needed: more if
    /// this goes on where the last request ended. Nothing behind the page of `limit`, the end of the
    /// region.
    pub fn ask(&mut self, va: Gva, need: u64, limit: Gva) -> u64 {
        let start = va.align_down(PAGE_SHIFT);
        let up = |va: Gva| va.checked_align_up(PAGE_SHIFT).unwrap_or(Gva(!(PAGE_SIZE - 1)));
        let end = up(Gva(va.0.saturating_add(need.max(1))));
        if self.start <= start && start < self.end {
            // Asked for before: under way, or not all of it was given.
            return end.0 - start.0;
        }
        self.window = if start == self.end { (self.window * 2).clamp(LEAST, MOST) } else { 0 };
        let most = Gva(start.0.saturating_add(MOST)).min(up(limit));
        let ahead = Gva(end.0.saturating_add(self.window)).min(most).max(end);
        (self.start, self.end) = (start, ahead);
        ahead.0 - start.0
    }

    /// Forgets the past.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAR: Gva = Gva(1 << 40);

    #[test]
    fn the_window_grows_while_requests_go_on_in_order() {
        let mut stream = Stream::default();
        let mut at = 0x10_0000;
        let mut asked = Vec::new();
        while at < 0x10_0000 + (8 << 20) {
            let len = stream.ask(Gva(at + 100), 64, FAR);
            asked.push(len >> PAGE_SHIFT);
            at += len;
        }
        assert_eq!(asked[..8], [1, 5, 9, 17, 33, 65, 129, 256]);
        assert!(asked[8..].iter().all(|&pages| pages == 256));
    }

    #[test]
    fn requests_out_of_order_ask_for_what_they_need() {
        let mut stream = Stream::default();
        for at in [9, 3, 7, 5, 1, 20, 18] {
            assert_eq!(stream.ask(Gva(at << 12), 10, FAR), PAGE_SIZE);
        }
        assert_eq!(stream.ask(Gva((19 << 12) + 4000), 100, FAR), 2 * PAGE_SIZE + LEAST);
        // What was asked for and did not come does not end the stream.
        assert_eq!(stream.ask(Gva(21 << 12), 10, FAR), PAGE_SIZE);
        assert_eq!(stream.ask(Gva(25 << 12), 10, FAR), PAGE_SIZE + 2 * LEAST);
    }

    proptest! {
        /// Never less than what is needed, never beyond the region unless it is, and never more than
        /// the most unless that is needed.
        #[test]
        fn a_request_stays_in_its_region(
            asks in prop::collection::vec((any::<u64>(), 0u64..4 << 20, 0u64..4 << 20), 1..40),
            near in prop::collection::vec(0u64..16, 40),
        ) {
            let mut stream = Stream::default();
            for ((va, need, more), near) in asks.into_iter().zip(near) {
                // Mostly where the last one ended.
                let va = if near > 2 { stream.end.0.saturating_add(near) } else { va };
                let limit = va.saturating_add(need).saturating_add(more);
                let len = stream.ask(Gva(va), need, Gva(limit));
                let start = va & !(PAGE_SIZE - 1);
                let needed = (va.saturating_add(need.max(1)) - start).next_multiple_of(PAGE_SIZE);
                prop_assert_eq!(len % PAGE_SIZE, 0);
                // The last page of all has no end.
                if va.saturating_add(need) < !(PAGE_SIZE - 1) {
                    prop_assert!(len >= needed);
                    prop_assert!(len <= needed.max(MOST));
                    prop_assert!(start + len <= limit.div_ceil(PAGE_SIZE) * PAGE_SIZE || len == needed);
                }
            }
        }
    }
}
