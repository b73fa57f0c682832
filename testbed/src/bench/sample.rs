// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Samples taken in rounds, and the figure that they make.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Time in nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Things.
    #[serde(rename = "count")]
    Count,
    /// Memory, in bytes.
    #[serde(rename = "B")]
    Bytes,
    /// Bandwidth, in bytes per second.
    #[serde(rename = "B/s")]
    BytesPerSecond,
    /// Things per second.
    #[serde(rename = "1/s")]
    PerSecond,
    /// Hundredths of something, such as a processor's time.
    #[serde(rename = "%")]
    Percent,
}

impl Unit {
    /// Whether a larger number is a better one; `None` if neither is.
    pub const fn more_is_better(self) -> Option<bool> {
        match self {
            Self::Nanoseconds | Self::Bytes | Self::Percent => Some(false),
            Self::BytesPerSecond | Self::PerSecond => Some(true),
            Self::Count => None,
        }
    }
}

/// Numbers of one kind, by the round in which they were taken.
#[derive(Debug, Clone)]
pub struct Samples {
    unit: Unit,
    rounds: Vec<Vec<f64>>,
}

impl Samples {
    /// None yet.
    pub fn new(unit: Unit) -> Self {
        Self { unit, rounds: Vec::new() }
    }

    /// None yet, of times.
    pub fn times() -> Self {
        Self::new(Unit::Nanoseconds)
    }

    /// What follows belongs to another round.
    pub fn begin_round(&mut self) {
        self.rounds.push(Vec::new());
    }

    /// Rounds so far, those without samples among them.
    pub fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// Adds a number to the present round.
    pub fn push(&mut self, value: f64) {
        if self.rounds.is_empty() {
            self.begin_round();
        }
        if let Some(round) = self.rounds.last_mut() {
            round.push(value);
        }
    }

    /// Adds a time.
    pub fn push_time(&mut self, time: Duration) {
        self.push(time.as_nanos() as f64);
    }

    /// Adds a whole round.
    pub fn push_round(&mut self, values: Vec<f64>) {
        self.rounds.push(values);
    }

    /// The sum of all.
    pub fn sum(&self) -> f64 {
        self.rounds.iter().flatten().sum()
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.rounds.iter().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The figure; `None` without samples.
    pub fn figure(&self) -> Option<Figure> {
        let all = sorted(self.rounds.iter().flatten().copied().collect());
        let (min, max) = (*all.first()?, *all.last()?);
        Some(Figure {
            unit: self.unit,
            samples: all.len(),
            rounds: self.rounds.iter().filter(|round| !round.is_empty()).count(),
            min,
            lower: quantile(&all, 0.25),
            median: quantile(&all, 0.5),
            upper: quantile(&all, 0.75),
            max,
        })
    }

    /// The median of each round that has samples, in the order of the rounds.
    pub fn round_medians(&self) -> Vec<f64> {
        self.medians().flatten().collect()
    }

    /// The median of each round, if it has samples.
    fn medians(&self) -> impl Iterator<Item = Option<f64>> + '_ {
        self.rounds
            .iter()
            .map(|round| (!round.is_empty()).then(|| quantile(&sorted(round.clone()), 0.5)))
    }

    /// How many times `other` this is: the median, over the rounds that both have samples in, of the
    /// ratio of their medians. `None` if there is no such round, or a median of `other` is 0.
    pub fn against(&self, other: &Self) -> Option<f64> {
        let both = self.medians().zip(other.medians());
        let ratios = both.filter_map(|(mine, theirs)| Some(mine? / theirs?)).collect::<Vec<_>>();
        let sane = !ratios.is_empty() && ratios.iter().all(|ratio| ratio.is_finite());
        sane.then(|| quantile(&sorted(ratios), 0.5))
    }
}

/// Largest over smallest of the same round, in the median round; `None` without common rounds.
pub fn spread_of(several: &[&Samples]) -> Option<f64> {
    let rounds = several.iter().map(|samples| samples.rounds.len()).min()?;
    let medians =
        several.iter().map(|samples| samples.medians().collect()).collect::<Vec<Vec<_>>>();
    let ratio = |round: usize| {
        let values = medians.iter().map(|of| of[round]).collect::<Option<Vec<f64>>>()?;
        let values = sorted(values);
        let ratio = values.last()? / values.first()?;
        ratio.is_finite().then_some(ratio)
    };
    let ratios = sorted((0..rounds).filter_map(ratio).collect());
    (!ratios.is_empty()).then(|| quantile(&ratios, 0.5))
}

/// A number with its spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What the numbers count.
    pub unit: Unit,
    /// Number of samples.
    pub samples: usize,
    /// Rounds that they were taken in.
    pub rounds: usize,
    /// The smallest.
    pub min: f64,
    /// A quarter is smaller.
    pub lower: f64,
    /// Half is smaller.
    pub median: f64,
    /// A quarter is larger.
    pub upper: f64,
    /// The largest.
    pub max: f64,
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Between the two nearest of `sorted`, which is not empty.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rounds: &[&[f64]]) -> Samples {
        let mut samples = Samples::times();
        rounds.iter().for_each(|round| samples.push_round(round.to_vec()));
        samples
    }

    #[test]
    fn a_figure_is_of_all_rounds() {
        let figure = samples(&[&[3.0, 1.0], &[], &[2.0, 5.0, 4.0]]).figure().unwrap();
        assert_eq!((figure.samples, figure.rounds), (5, 2));
        assert_eq!((figure.min, figure.median, figure.max), (1.0, 3.0, 5.0));
        assert_eq!((figure.lower, figure.upper), (2.0, 4.0));
        assert_eq!(samples(&[&[], &[]]).figure(), None);
        assert_eq!(quantile(&[1.0, 2.0], 0.5), 1.5);
    }

    #[test]
    fn what_slows_a_whole_round_down_leaves_ratios_alone() {
        let (one, two) =
            (samples(&[&[1.0], &[50.0], &[1.0]]), samples(&[&[2.0], &[100.0], &[2.0]]));
        assert_eq!(two.against(&one), Some(2.0));
        assert_eq!(spread_of(&[&one, &two, &one]), Some(2.0));
    }

    #[test]
    fn no_ratio_without_numbers() {
        let (some, none, zero) = (samples(&[&[1.0]]), samples(&[]), samples(&[&[0.0]]));
        assert_eq!(some.against(&none), None);
        assert_eq!(some.against(&zero), None);
        assert_eq!(spread_of(&[&some, &none]), None);
        assert_eq!(spread_of(&[]), None);
    }
}
