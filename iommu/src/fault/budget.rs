// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many page requests a guest can be asked for, and who may ask for how many of them.
//!
//! The room for outstanding requests is shared by dynamic thresholds: whoever asks may hold as many
//! as are still free. One alone gets half of the room, two get a third each, and there is always
//! some left for whoever comes next, without a number that somebody would have to choose.
//!
//! A. K. Choudhury and E. L. Hahne, "Dynamic queue length thresholds for shared-memory packet
//! switches", 1998.

use std::time::{Duration, Instant};

/// What a [`PageRequestTable`](super::PageRequestTable) may hold, and how fast it may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Outstanding requests. Other guests together get half of them.
    pub requests: usize,
    /// Requests per second, 0 for as many as come.
    pub rate: u32,
    /// Requests that may be asked for at once when there were few before; at least 1.
    pub burst: u32,
}

/// Who asks a guest for pages, and so whose share a request is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claimant {
    /// The guest's own process of this PASID.
    Own(u32),
    /// Another guest, by a number of the caller's.
    Foreign(u64),
}

impl Limits {
    /// Whether a claimant that holds `held` requests may have one more, when `all` are outstanding
    /// and `foreign` of them are other guests'.
    pub(super) fn admits(
        &self,
        claimant: Claimant,
        held: usize,
        all: usize,
        foreign: usize,
    ) -> bool {
        let free = self.requests.saturating_sub(all);
        let share = match claimant {
            Claimant::Own(_) => free,
            // Other guests share what is theirs. The rest is out of their reach however many they
            // are, so that a guest's own queue pairs never wait for its peers'.
            Claimant::Foreign(_) => (self.requests / 2).max(1).saturating_sub(foreign).min(free),
        };
        held < share
    }
}

/// A token bucket, kept as the time at which it will be full (the generic cell rate algorithm).
#[derive(Debug)]
pub(super) struct Bucket {
    /// Time that one token takes to come; zero for no limit.
    interval: Duration,
    burst: u32,
    /// `None` if it was never used.
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(limits: &Limits) -> Self {
        let nanos = match limits.rate {
            0 => 0,
            // Rounded up: rather a little slower than faster.
            rate => 1_000_000_000_u64.div_ceil(rate.into()),
        };
        Self { interval: Duration::from_nanos(nanos), burst: limits.burst.max(1), full_at: None }
    }

    /// When `tokens` of them will be there, one after the other as they come.
    pub(super) fn ready_at(&self, tokens: u32, now: Instant) -> Instant {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        let until = self.interval.saturating_mul(tokens);
        let ahead = self.interval.saturating_mul(self.burst);
        full_at.checked_add(until).and_then(|time| time.checked_sub(ahead)).unwrap_or(now).max(now)
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.ready_at(1, now) <= now
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let ready = self.is_ready(now);
        if ready && !self.interval.is_zero() {
            self.full_at =
                Some(self.full_at.map_or(now, |full_at| full_at.max(now)) + self.interval);
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In any stretch of time no more tokens are taken than the burst and the rate allow; and
        /// whoever comes when it was told to is served.
        #[test]
        fn a_bucket_gives_its_rate_and_no_more(
            rate in 1..5000u32, burst in 1..50u32,
            gaps in prop::collection::vec(0..3_000_000u64, 1..300),
        ) {
            let mut bucket = Bucket::new(&Limits { requests: 0, rate, burst });
            let start = Instant::now();
            let mut now = start;
            let mut taken = Vec::new();
            for gap in gaps {
                now += Duration::from_nanos(gap);
                while bucket.take(now) {
                    taken.push(now);
                }
                let next = bucket.ready_at(1, now);
                prop_assert!(next > now);
                prop_assert!(!bucket.is_ready(next - Duration::from_nanos(1)));
                prop_assert!(bucket.is_ready(next));
            }
            for (first, &from) in taken.iter().enumerate() {
                for (last, &to) in taken.iter().enumerate().skip(first) {
                    let time = to - from;
                    let most = f64::from(burst) + time.as_secs_f64() * f64::from(rate);
                    prop_assert!((last - first + 1) as f64 <= most + 1e-6);
                }
            }
            // No less, either: the burst, and one for each interval since.
            let interval = 1_000_000_000_u64.div_ceil(rate.into());
            let due = (now - start).as_nanos() as u64 / interval;
            prop_assert!(taken.len() as u64 >= due.min(u64::from(burst)));
        }

        /// However many others ask for as much as they get, there is room for one who holds nothing,
        /// as long as they are fewer than half of the room; and the guest's own always get at least
        /// half of it together.
        #[test]
        fn hogs_leave_room_for_others(
            requests in 2..300usize, hogs in prop::collection::vec(any::<bool>(), 1..12),
        ) {
            let limits = Limits { requests, rate: 0, burst: 1 };
            let claimants: Vec<Claimant> = hogs.iter().enumerate().map(|(index, &own)| {
                if own { Claimant::Own(index as u32) } else { Claimant::Foreign(index as u64) }
            }).collect();
            let mut held = vec![0; hogs.len()];
            loop {
                let before = held.clone();
                for (index, &claimant) in claimants.iter().enumerate() {
                    let all = held.iter().sum();
                    let foreign = (0..hogs.len()).filter(|&i| !hogs[i]).map(|i| held[i]).sum();
                    if limits.admits(claimant, held[index], all, foreign) {
                        held[index] += 1;
                    }
                }
                if held == before {
                    break;
                }
            }
            let all: usize = held.iter().sum();
            let foreign: usize = (0..hogs.len()).filter(|&i| !hogs[i]).map(|i| held[i]).sum();
            prop_assert!(all <= requests && foreign <= (requests / 2).max(1));
            if requests > 2 * hogs.len() + 2 {
                prop_assert!(limits.admits(Claimant::Own(1000), 0, all, foreign));
                prop_assert!(limits.admits(Claimant::Foreign(1000), 0, all, foreign));
            }
        }
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut bucket = Bucket::new(&Limits { requests: 0, rate: 0, burst: 0 });
        let now = Instant::now();
        assert!((0..10_000).all(|_| bucket.take(now)));
    }
}
