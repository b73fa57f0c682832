// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many iterations fit into the time of one measurement.
//!
//! The same suite has to end in time on an emulated processor over rxe and on real ones over the
//! vNIC, five orders of magnitude apart. So each measurement tells how long an iteration takes, and that
//! predicts those of the same size in a later round, and of larger messages.

use std::{collections::BTreeMap, time::Duration};

/// Bytes of a message below which its size hardly matters for its time.
const SMALL: u64 = 4 << 10;

/// How many times more iterations than before are risked at once: a few are no good measure of many.
const GROWTH: u64 = 200;

/// Part of its time that a measurement has to last.
const SHORT: u64 = 3;

/// Chooses iterations for one program over one device.
#[derive(Debug, Clone)]
pub struct Pace {
    fixed: Option<u64>,
    least: u64,
    most: u64,
    /// Time of an iteration and the number of them, by the size of the message.
    known: BTreeMap<u64, (Duration, u64)>,
}

impl Pace {
    /// Measurements of `least` to `most` iterations, or of exactly `fixed`.
    pub fn new(least: u64, most: u64, fixed: Option<u64>) -> Self {
        Self { fixed, least, most, known: BTreeMap::new() }
    }

    /// Iterations that take about `goal` with messages of `bytes`.
    pub fn iterations(&self, bytes: u64, goal: Duration) -> u64 {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let smaller = self.known.range(..=bytes).next_back();
        let Some((before, (each, iterations))) = smaller.or_else(|| self.known.iter().next())
        else {
            return self.least;
        };
        let growth = bytes.max(SMALL) as f64 / (*before).max(SMALL) as f64;
        let expected = each.as_secs_f64() * growth.max(1.0);
        // Casting saturates, so that an immeasurably short time asks for the most.
        let fit = (goal.as_secs_f64() / expected) as u64;
        fit.min(iterations.saturating_mul(GROWTH)).clamp(self.least, self.most)
    }

    /// Whether a measurement of `iterations` was much shorter than `goal`, as is known since. It is worth
    /// another one then.
    pub fn was_short(&self, bytes: u64, iterations: u64, goal: Duration) -> bool {
        self.iterations(bytes, goal) / SHORT >= iterations
    }

    /// Tells how long one of `iterations` took with messages of `bytes`.
    pub fn measured(&mut self, bytes: u64, each: Duration, iterations: u64) {
        self.known.insert(bytes, (each, iterations));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Duration = Duration::from_secs(1);

    #[test]
    fn the_next_size_is_predicted_from_the_one_below() {
        let mut pace = Pace::new(5, 5000, None);
        assert_eq!(pace.iterations(2, GOAL), 5);
        pace.measured(2, Duration::from_millis(1), 5);
        assert_eq!(pace.iterations(2, GOAL), 1000);
        assert!(pace.was_short(2, 5, GOAL) && !pace.was_short(2, 400, GOAL));
        assert_eq!(pace.iterations(64 << 10, GOAL), 62);
        assert_eq!(pace.iterations(1 << 20, GOAL), 5);
        // What is known of the size itself counts more.
        pace.measured(64 << 10, Duration::from_millis(2), 62);
        assert_eq!(pace.iterations(64 << 10, GOAL), 500);
        assert_eq!(pace.iterations(64 << 10, GOAL / 2), 250);
        assert_eq!(pace.iterations(1, GOAL), 1000, "no smaller one is known");
    }

    #[test]
    fn few_iterations_are_not_trusted_far() {
        let mut pace = Pace::new(5, 10_000_000, None);
        pace.measured(64, Duration::ZERO, 5);
        assert_eq!(pace.iterations(64, GOAL), 1000);
        pace.measured(64, Duration::ZERO, 1000);
        assert_eq!(pace.iterations(64, GOAL), 200_000);
        pace.measured(64, Duration::ZERO, 200_000);
        assert_eq!(pace.iterations(64, GOAL), 10_000_000);
    }

    #[test]
    fn a_fixed_number_stays() {
        let mut pace = Pace::new(5, 5000, Some(7));
        pace.measured(2, Duration::from_secs(9), 7);
        assert_eq!(pace.iterations(1 << 20, GOAL), 7);
        assert!(!pace.was_short(2, 7, GOAL));
    }
}
