// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keeps guests from filling the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines that pass at once before the limit bites.
const BURST: u32 = 10;
/// After this long the burst is available again.
const WINDOW: Duration = Duration::from_secs(10);

/// Lets through a burst of lines per window, and counts those that it holds back.
///
/// One per source of lines, so that one guest does not silence another.
#[derive(Debug)]
pub struct RateLimit {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    window: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl RateLimit {
    /// A limit that has not seen anything yet.
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { window: None, passed: 0, suppressed: 0 }) }
    }

    /// Whether to log now; if so, the number of lines held back since the last one.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let fresh = state.window.is_none_or(|start| now.saturating_duration_since(start) >= WINDOW);
        if fresh {
            state.window = Some(now);
            state.passed = 0;
        }
        if state.passed == BURST {
            state.suppressed += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_is_counted() {
        let limit = RateLimit::new();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limit.admit_at(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(limit.admit_at(start + WINDOW / 2), None);
        }
        assert_eq!(limit.admit_at(start + WINDOW), Some(7));
        assert_eq!(limit.admit_at(start + WINDOW), Some(0));
    }
}
