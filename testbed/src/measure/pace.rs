// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many iterations fit into the time of one measurement.
//!
//! The same suite has to end in time on an emulated processor over rxe and on real ones over the
//! vNIC, five orders of magnitude apart. So sizes are measured in ascending order, and each
//! predicts the next.

use std::time::Duration;

/// Bytes of a message below which its size hardly matters for its time.
const SMALL: u64 = 4 << 10;

/// Chooses iterations for one program, size after size.
#[derive(Debug, Clone)]
pub struct Pace {
    goal: Duration,
    fixed: Option<u64>,
    least: u64,
    most: u64,
    last: Option<(u64, Duration)>,
}

impl Pace {
    /// Measurements of about `goal` each, of `least` to `most` iterations; or of exactly `fixed`.
    pub fn new(goal: Duration, least: u64, most: u64, fixed: Option<u64>) -> Self {
        Self { goal, fixed, least, most, last: None }
    }

    /// Iterations for messages of `bytes`.
    pub fn iterations(&self, bytes: u64) -> u64 {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let Some((before, each)) = self.last else {
            return FIRST.clamp(self.least, self.most);
        };
        let growth = bytes.max(SMALL) as f64 / before.max(SMALL) as f64;
        let expected = each.as_secs_f64() * growth.max(1.0);
        // Casting saturates, so that an immeasurably short time asks for the most.
        ((self.goal.as_secs_f64() / expected) as u64).clamp(self.least, self.most)
    }

    /// Whether a measurement of `iterations`, the first of all, was much shorter than it could
    /// have been. It is worth another one then.
    pub fn was_short(&self, bytes: u64, iterations: u64) -> bool {
        self.iterations(bytes) / 4 >= iterations
    }

    /// Tells how long one iteration took with messages of `bytes`.
    pub fn measured(&mut self, bytes: u64, each: Duration) {
        self.last = Some((bytes, each));
    }
}

/// Iterations before anything is known.
const FIRST: u64 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Duration = Duration::from_secs(1);

    #[test]
    fn the_next_size_is_predicted_from_the_last() {
        let mut pace = Pace::new(GOAL, 10, 5000, None);
        assert_eq!(pace.iterations(2), 50);
        pace.measured(2, Duration::from_millis(1));
        assert_eq!(pace.iterations(1024), 1000);
        assert!(pace.was_short(2, 50) && !pace.was_short(2, 300));
        assert_eq!(pace.iterations(64 << 10), 62);
        assert_eq!(pace.iterations(1 << 20), 10);
        pace.measured(2, Duration::ZERO);
        assert_eq!(pace.iterations(4), 5000);
    }

    #[test]
    fn a_fixed_number_stays() {
        let mut pace = Pace::new(GOAL, 10, 5000, Some(7));
        pace.measured(2, Duration::from_secs(9));
        assert_eq!(pace.iterations(1 << 20), 7);
        assert!(!pace.was_short(2, 7));
    }
}
