// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device's half of the generation: which translations the driver has taken back.

use std::sync::atomic::Ordering;

use super::{GENERATION_WORD, RING_ENTRIES, SharedWords, Step, leaves_out, ring_word};
use crate::addr::Gva;

/// What a cache has to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Everything that overlaps the range.
    Range {
        /// First address.
        start: Gva,
        /// First address behind it; above `start`.
        end: Gva,
    },
    /// The whole address space.
    All,
}

/// What one worker has seen of one address space's invalidation page.
#[derive(Clone, Copy, Debug, Default)]
pub struct InvalidationReader {
    seen: u64,
}

impl InvalidationReader {
    /// Starts to follow `page`, for a cache that holds nothing of the address space yet. Must be
    /// called inside a burst.
    #[inline]
    pub fn attach(page: &impl SharedWords) -> Self {
        // Acquire: D3, pairs with G2.
        Self { seen: page.load(GENERATION_WORD, Ordering::Acquire) }
    }

    /// The last generation that was reported.
    #[inline]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether nothing was invalidated since the last call of [`sync`](Self::sync). Must be called inside a
    /// burst. If so, there is no need to call it in this one.
    #[inline]
    pub fn is_current(&self, page: &impl SharedWords) -> bool {
        // Acquire: D3, as in `sync`.
        page.load(GENERATION_WORD, Ordering::Acquire) == self.seen || leaves_out(Step::Generation)
    }

    /// Reports to `drop` whatever was invalidated since the last call. Must be called inside a
    /// burst, before the first use of a cached translation in it. Costs one load if nothing was.
    ///
    /// Whatever the page says, `drop` is called at most 32 times, and anything that does not make
    /// sense is reported as [`Dropped::All`]: a generation that went back or moved by more than the
    /// ring holds, an entry with `start >= end`, an entry overwritten while it was read.
    #[inline]
    pub fn sync(&mut self, page: &impl SharedWords, drop: impl FnMut(Dropped)) {
        // Acquire: D3, pairs with G2, so that the entries up to this generation are visible. That it
        // is not too old is the doing of the fence D2.
        let generation = page.load(GENERATION_WORD, Ordering::Acquire);
        if generation != self.seen && !leaves_out(Step::Generation) {
            self.catch_up(page, generation, drop);
        }
    }

    #[cold]
    fn catch_up(
        &mut self,
        page: &impl SharedWords,
        generation: u64,
        mut drop: impl FnMut(Dropped),
    ) {
        let seen = std::mem::replace(&mut self.seen, generation);
        // A generation that went back wraps to a huge number of missed ones.
        let missed = generation.wrapping_sub(seen);
        // The driver fills the entry of a generation before it publishes it, so that the oldest of
        // 32 may be under its pen already.
        if missed >= RING_ENTRIES {
            return drop(Dropped::All);
        }
        let mut ranges = [(0, 0); RING_ENTRIES as usize];
        for (range, ago) in ranges.iter_mut().zip(0..missed) {
            let word = ring_word(generation.wrapping_sub(ago));
            // Relaxed: ordered by the Acquire above; against overwriting, by the fence below.
            *range = (page.load(word, Ordering::Relaxed), page.load(word + 1, Ordering::Relaxed));
        }
        // Acquire: pairs with the Release of the driver's entry stores. If a load above saw a newer
        // entry, the load below sees the generation that preceded it.
        page.fence(Ordering::Acquire);
        let now = page.load(GENERATION_WORD, Ordering::Relaxed);
        // The driver is at most writing the entry of `now + 1`; that must not be one that was read.
        if now.wrapping_sub(seen) >= RING_ENTRIES {
            return drop(Dropped::All);
        }
        let ranges = &ranges[..missed as usize];
        if ranges.iter().any(|&(start, end)| start >= end || (start == 0 && end == u64::MAX)) {
            return drop(Dropped::All);
        }
        for &(start, end) in ranges {
            drop(Dropped::Range { start: Gva(start), end: Gva(end) });
        }
    }
}
