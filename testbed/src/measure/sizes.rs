// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which message sizes are measured.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::program::Kind;

/// Sizes that perftest can be told.
pub const ALLOWED: RangeInclusive<u64> = 1..=8 << 20;

const LATENCY_LIMIT: u64 = 1 << 20;
const BANDWIDTH_LIMIT: u64 = 8 << 20;

/// Message sizes in bytes, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// For the latency programs.
    pub latency: Vec<u64>,
    /// For the bandwidth programs.
    pub bandwidth: Vec<u64>,
}

impl Sizes {
    /// From 2 B to 1 MiB, or 8 MiB for bandwidth, in steps that leave a run short.
    pub fn steps() -> Self {
        Self {
            latency: vec![2, 8, 4 << 10, 64 << 10, 1 << 20],
            bandwidth: vec![2, 64, 4 << 10, 64 << 10, 1 << 20, 8 << 20],
        }
    }

    /// Those that goals are about and the largest, for a quick look.
    pub fn few() -> Self {
        Self { latency: vec![8, 4 << 10, 1 << 20], bandwidth: vec![64, 4 << 10, 64 << 10, 8 << 20] }
    }

    /// Every power of two in the same range.
    pub fn full() -> Self {
        let powers = |limit: u64| (1..=limit.ilog2()).map(|power| 1 << power).collect();
        Self { latency: powers(LATENCY_LIMIT), bandwidth: powers(BANDWIDTH_LIMIT) }
    }

    /// These, for all programs.
    pub fn chosen(mut sizes: Vec<u64>) -> Self {
        sizes.sort_unstable();
        sizes.dedup();
        Self { latency: sizes.clone(), bandwidth: sizes }
    }

    /// The sizes of a kind of program.
    pub fn of(&self, kind: Kind) -> &[u64] {
        match kind {
            Kind::Latency => &self.latency,
            Kind::Bandwidth => &self.bandwidth,
            Kind::Show | Kind::PingPong => &[],
        }
    }
}

/// Reads a size: `64`, `64K`, `1M`, with an optional `i` and `B` behind the letter.
///
/// # Errors
/// When it is none, or perftest could not be told it.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        _ => return Err("a size is a number of bytes, with K or M behind it at most".into()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| ALLOWED.contains(bytes))
        .ok_or_else(|| "a size lies between 1 byte and 8M".into())
}

/// Writes a size as a person would: `2 B`, `64 KiB`, `8 MiB`.
pub fn text(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::GOALS;

    #[test]
    fn every_choice_goes_far_and_decides_all_goals() {
        for (sizes, least) in [(Sizes::steps(), 2), (Sizes::few(), 64), (Sizes::full(), 2)] {
            for (list, limit) in
                [(&sizes.latency, LATENCY_LIMIT), (&sizes.bandwidth, BANDWIDTH_LIMIT)]
            {
                assert!(list[0] <= least && *list.last().unwrap() == limit);
                assert!(list.is_sorted_by(|a, b| a < b));
                assert!(list.iter().all(|bytes| bytes.is_power_of_two()));
            }
            for goal in GOALS {
                assert!(sizes.of(goal.program.kind()).contains(&goal.bytes), "{goal:?}");
            }
        }
        assert_eq!(Sizes::full().latency.len(), 20);
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("2", 2), ("64K", 65536), ("64KiB", 65536), ("1M", 1 << 20), ("8mb", 8 << 20)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "K", "9M", "2G", "1.5K", "-2", "18446744073709551615K"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!([2, 1 << 10, 1536, 8 << 20].map(text), ["2 B", "1 KiB", "1536 B", "8 MiB"]);
    }

    #[test]
    fn chosen_sizes_are_put_in_order() {
        assert_eq!(Sizes::chosen(vec![64, 2, 64]).latency, [2, 64]);
    }
}
