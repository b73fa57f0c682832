// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Axes: what they count, where their ticks are and what is written there.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

use crate::{
    bench::{Unit, memory},
    page::text,
};

/// Labels that fit along an axis that is as long as a picture.
pub const LABELS: usize = 6;

/// What the numbers of an axis are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Numbers of a bench.
    Unit(Unit),
    /// Sizes in bytes that are powers of two, mostly.
    Size,
    /// Parts of 1, or whatever else has no unit.
    Plain,
}

impl Quantity {
    /// What the name of an axis says of its unit: "time in ns", "latency (ns)", "%".
    pub fn of_name(name: &str) -> Self {
        let last = name.rsplit([' ', ',', '(', '[']).next().unwrap_or(name);
        let unit = last.trim_end_matches([')', ']']);
        serde_json::from_value(unit.into()).map_or(Self::Plain, Self::Unit)
    }

    /// A number of it, as it is written at a tick.
    pub fn tick(self, value: f64) -> String {
        match self {
            Self::Plain => compact(value),
            Self::Size => memory::size(value.round() as u64),
            Self::Unit(_) if value == 0.0 => "0".into(),
            Self::Unit(unit) => {
                let (name, scale) = step(unit, value);
                format!("{} {name}", compact(value / scale)).trim_end().into()
            }
        }
    }

    /// A number of it in words.
    pub fn say(self, value: f64) -> String {
        match self {
            Self::Unit(unit) => text::value(unit, value),
            Self::Size | Self::Plain => self.tick(value),
        }
    }

    /// Whether it grows in steps of 1024.
    fn is_binary(self) -> bool {
        matches!(self, Self::Size | Self::Unit(Unit::Bytes | Unit::BytesPerSecond))
    }
}

/// The largest unit that a number has one of. Tables have fewer, so that what stands in a column has the
/// same; ticks have them all, so that their numbers are short.
fn step(unit: Unit, value: f64) -> (&'static str, f64) {
    const KIB: f64 = 1024.0;
    let steps: &[(&str, f64)] = match unit {
        Unit::Nanoseconds => &[("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)],
        Unit::Bytes => &[("B", 1.0), ("KiB", KIB), ("MiB", KIB * KIB), ("GiB", KIB * KIB * KIB)],
        Unit::BytesPerSecond => {
            &[("B/s", 1.0), ("KiB/s", KIB), ("MiB/s", KIB * KIB), ("GiB/s", KIB * KIB * KIB)]
        }
        Unit::PerSecond => &[("/s", 1.0), ("k/s", 1e3), ("M/s", 1e6)],
        Unit::Percent => &[("%", 1.0)],
        Unit::Count => &[("", 1.0)],
    };
    // A little less, so that a sum of steps that should be whole is.
    let has_one = |(_, scale): &&(&str, f64)| value.abs() >= scale * (1.0 - 1e-9);
    *steps.iter().rev().find(has_one).unwrap_or(&steps[0])
}

/// A round number in few characters: `10k`, `2.5M`, `0.05`.
fn compact(value: f64) -> String {
    let (scale, suffix) = match value.abs() {
        size if size >= 1e9 => (1e9, "G"),
        size if size >= 1e6 => (1e6, "M"),
        size if size >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let scaled = value / scale;
    let text = if scaled == 0.0 || scaled.abs() >= 1e-3 {
        format!("{scaled:.3}")
    } else {
        return format!("{scaled:.0e}");
    };
    format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// How far apart numbers are on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As they are.
    Linear,
    /// By their ratio.
    Log,
    /// Percentiles by what is above them, so that 90, 99 and 99.9 are as far apart as each other.
    Nines,
}

impl Form {
    /// Where a number lies; what has no place lies at an end.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(f64::MIN_POSITIVE).ln(),
            Self::Nines => -(1.0 - value / 100.0).max(f64::MIN_POSITIVE).log10(),
        }
    }

    /// The number that lies at a place.
    fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log => place.exp(),
            Self::Nines => 100.0 * (1.0 - 10f64.powf(-place)),
        }
    }
}

/// An axis with the range that it shows.
#[derive(Debug, Clone)]
pub struct Axis {
    quantity: Quantity,
    form: Form,
    /// Places of its ends.
    ends: (f64, f64),
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis for these values, which are finite. It is logarithmic if they allow it and the largest is
    /// at least `log_from` times the smallest; else, it begins at 0. It has about `labels` ticks at most.
    pub fn new(
        quantity: Quantity,
        values: impl Iterator<Item = f64>,
        log_from: f64,
        labels: usize,
    ) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if low > 0.0 && high / low >= log_from {
            let ticks = log_ticks(quantity, low, high, labels);
            return Self { quantity, form: Form::Log, ends: (low.ln(), high.ln()), ticks };
        }
        let (low, high) = (low.min(0.0), high.max(0.0));
        let high = if low == high { low + 1.0 } else { high };
        let ticks = linear_ticks(quantity, low, high, labels);
        // A line that ends at the frame is hard to see.
        let high = ticks.last().map_or(high, |last| high.max(*last));
        Self { quantity, form: Form::Linear, ends: (low, high), ticks }
    }

    /// An axis for percentages, which shows the last ones if there are such: a share of what is quicker is
    /// read from its end.
    pub fn of_shares(quantity: Quantity, values: &[f64]) -> Self {
        const TICKS: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
        let most = values.iter().copied().filter(|value| *value < 100.0).fold(0.0, f64::max);
        if most < 99.0 || values.iter().any(|value| !(0.0..=100.0).contains(value)) {
            return Self::new(quantity, values.iter().copied(), f64::INFINITY, LABELS);
        }
        // What is above all of them lies a little above the last.
        let end = Form::Nines.place(most) + 0.2;
        let ticks = TICKS.into_iter().filter(|tick| *tick <= most + 1e-9).collect();
        Self { quantity, form: Form::Nines, ends: (0.0, end), ticks }
    }

    /// An axis for places at which something was measured: they have the ticks, if most labels fit.
    pub fn of_places(quantity: Quantity, places: &[f64]) -> Self {
        const LOG_FROM: f64 = 8.0;
        let mut axis = Self::new(quantity, places.iter().copied(), LOG_FROM, LABELS);
        let mut places = places.to_vec();
        places.sort_unstable_by(f64::total_cmp);
        places.dedup();
        let fitting = axis.fitting(&places);
        axis.ticks =
            if fitting.len() * 3 >= places.len() * 2 { fitting } else { axis.fitting(&axis.ticks) };
        axis
    }

    /// Those of `ticks` whose labels have room beside each other.
    fn fitting(&self, ticks: &[f64]) -> Vec<f64> {
        let mut fitting = Vec::<f64>::new();
        for tick in ticks {
            if fitting.last().is_none_or(|last| self.are_apart(*last, *tick)) {
                fitting.push(*tick);
            }
        }
        fitting
    }

    /// Whether the labels of two ticks have room beside each other, on an axis across a picture.
    fn are_apart(&self, left: f64, right: f64) -> bool {
        /// Pixels of an axis, of a letter, and of the room between labels.
        const AXIS: i32 = 230;
        const LETTER: f64 = 6.6;
        const BETWEEN: f64 = 8.0;
        let [from, to] = [left, right].map(|place| self.map(&place, (0, AXIS)));
        let letters = [left, right].map(|place| self.label(place).chars().count() as f64);
        f64::from(to - from) >= letters.iter().sum::<f64>() / 2.0 * LETTER + BETWEEN
    }

    /// Adds room at both ends, as parts of the whole.
    #[must_use]
    pub fn with_room(mut self, before: f64, after: f64) -> Self {
        let span = self.ends.1 - self.ends.0;
        // What begins at 0 stays there.
        let before = if self.form != Form::Log && self.ends.0 >= 0.0 { 0.0 } else { before };
        self.ends = (self.ends.0 - span * before, self.ends.1 + span * after);
        self
    }

    /// Whether it is logarithmic.
    pub fn is_log(&self) -> bool {
        self.form == Form::Log
    }

    /// What is written at a tick.
    pub fn label(&self, value: f64) -> String {
        self.quantity.tick(value)
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (low, high) = self.ends;
        let part = ((self.form.place(*value) - low) / (high - low)).clamp(0.0, 1.0);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let (low, high) = self.ends;
        let shown = |tick: &&f64| (low - 1e-9..=high + 1e-9).contains(&self.form.place(**tick));
        self.ticks.iter().filter(shown).copied().collect()
    }

    fn range(&self) -> Range<f64> {
        self.form.value(self.ends.0)..self.form.value(self.ends.1)
    }
}

fn log_ticks(quantity: Quantity, low: f64, high: f64, labels: usize) -> Vec<f64> {
    let inside = |ticks: Vec<f64>| {
        let inside = ticks.into_iter().filter(|tick| (low * 0.999..=high * 1.001).contains(tick));
        inside.collect::<Vec<_>>()
    };
    if quantity == Quantity::Size {
        let exponents = |step: usize| (0..62).step_by(step).map(|power| 2f64.powi(power)).collect();
        let choices = [1, 2, 4, 5, 10, 20].map(|step| inside(exponents(step)));
        return choices.into_iter().find(|ticks| ticks.len() < labels).unwrap_or_default();
    }
    let decades: Vec<f64> = if quantity.is_binary() {
        let powers = (0..6).map(|power| 1024f64.powi(power));
        powers.flat_map(|power| [power, power * 10.0, power * 100.0]).collect()
    } else {
        (-9..16).map(|power| 10f64.powi(power)).collect()
    };
    let with = |between: &[f64]| {
        inside(
            decades.iter().flat_map(|tick| between.iter().map(move |part| tick * part)).collect(),
        )
    };
    let choices = [with(&[1.0, 2.0, 5.0]), with(&[1.0, 3.0]), with(&[1.0])];
    if let Some(ticks) = choices.into_iter().find(|ticks| ticks.len() <= labels) {
        return ticks;
    }
    let all = with(&[1.0]);
    let step = all.len().div_ceil(labels);
    all.into_iter().step_by(step).collect()
}

fn linear_ticks(quantity: Quantity, low: f64, high: f64, labels: usize) -> Vec<f64> {
    // Round numbers are round in the unit in which they are written.
    let scale = match quantity {
        Quantity::Unit(unit) => step(unit, high).1,
        Quantity::Size => 1024f64.powf((high.max(1.0).ln() / 1024f64.ln()).floor()),
        Quantity::Plain => 1.0,
    };
    let span = (high - low) / scale;
    let rough = span / (labels - 1) as f64;
    let decade = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|part| part * decade);
    let step = steps.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(span);
    let first = (low / scale / step).ceil();
    let count = ((span / step) + 1e-9).floor() as usize;
    // The last one may lie a little above all values, if it is near.
    let next = (first + count as f64 + 1.0) * step <= high / scale + step * 0.6;
    (0..=count + usize::from(next)).map(|index| (first + index as f64) * step * scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.key_points(10).into_iter().map(|tick| axis.label(tick)).collect()
    }

    fn axis(quantity: Quantity, low: f64, high: f64) -> Axis {
        Axis::new(quantity, [low, high].into_iter(), 10.0, LABELS)
    }

    #[test]
    fn ticks_are_round_in_their_own_units() {
        let time = Quantity::Unit(Unit::Nanoseconds);
        for (quantity, low, high, expected) in [
            (time, 90.0, 30e6, "100 ns, 1 µs, 10 µs, 100 µs, 1 ms, 10 ms"),
            (time, 100.0, 1500.0, "100 ns, 200 ns, 500 ns, 1 µs"),
            (time, 800.0, 2.2e3, "0, 500 ns, 1 µs, 1.5 µs, 2 µs, 2.5 µs"),
            (Quantity::Size, 2.0, 8e6, "16 B, 256 B, 4 KiB, 64 KiB, 1 MiB"),
            (Quantity::Size, 64.0, 4096.0, "64 B, 256 B, 1 KiB, 4 KiB"),
            (
                Quantity::Unit(Unit::BytesPerSecond),
                3e6,
                4e10,
                "10 MiB/s, 100 MiB/s, 1 GiB/s, 10 GiB/s",
            ),
            (
                Quantity::Unit(Unit::BytesPerSecond),
                8e9,
                2e10,
                "0, 5 GiB/s, 10 GiB/s, 15 GiB/s, 20 GiB/s",
            ),
            (
                Quantity::Unit(Unit::PerSecond),
                1.2e7,
                2.4e7,
                "0, 5 M/s, 10 M/s, 15 M/s, 20 M/s, 25 M/s",
            ),
            (Quantity::Plain, 1.0, 10_000.0, "1, 10, 100, 1000, 10k"),
            (Quantity::Plain, 0.0, 1.0, "0, 0.2, 0.4, 0.6, 0.8, 1"),
            (
                Quantity::Unit(Unit::Percent),
                0.01,
                0.05,
                "0, 0.01 %, 0.02 %, 0.03 %, 0.04 %, 0.05 %",
            ),
        ] {
            assert_eq!(labels(&axis(quantity, low, high)).join(", "), expected);
        }
    }

    #[test]
    fn values_lie_where_they_belong() {
        let axis = axis(Quantity::Plain, 1.0, 100.0);
        assert!(axis.is_log());
        assert_eq!([1.0, 10.0, 100.0].map(|value| axis.map(&value, (0, 200))), [0, 100, 200]);
        // Downwards, as on a screen; and what is outside stays at the frame.
        assert_eq!([1.0, 1e9, -5.0].map(|value| axis.map(&value, (200, 0))), [200, 0, 200]);
        let roomy = axis.with_room(0.1, 0.1);
        assert!(roomy.range().start < 1.0 && roomy.range().end > 100.0);
    }

    #[test]
    fn the_last_percentiles_have_room() {
        let shares = Axis::of_shares(Quantity::Plain, &[0.0, 50.0, 99.0, 99.9, 99.95, 100.0]);
        assert_eq!(labels(&shares), ["50", "90", "99", "99.9"]);
        let places = [0.0, 90.0, 99.0, 99.9, 100.0].map(|share| shares.map(&share, (0, 1000)));
        assert_eq!((places[0], places[4]), (0, 1000));
        assert!((places[2] - places[1]).abs_diff(places[3] - places[2]) <= 1, "{places:?}");
        for few in [&[0.0, 50.0, 100.0][..], &[0.0, 150.0], &[]] {
            assert!(!labels(&Axis::of_shares(Quantity::Plain, few)).contains(&"99".into()));
        }
    }

    #[test]
    fn places_have_the_ticks_if_they_are_few() {
        let few = Axis::of_places(Quantity::Plain, &[64.0, 1.0, 4.0, 16.0, 256.0, 4.0]);
        assert_eq!(labels(&few), ["1", "4", "16", "64", "256"]);
        let near = [2.0, 64.0, 4096.0, 65536.0, f64::from(1 << 20), f64::from(8 << 20)];
        let near = Axis::of_places(Quantity::Size, &near);
        assert_eq!(labels(&near), ["2 B", "64 B", "4 KiB", "1 MiB"]);
        let many = (1..=20).map(|power| 2f64.powi(power)).collect::<Vec<_>>();
        assert_eq!(
            labels(&Axis::of_places(Quantity::Size, &many)).join(", "),
            "16 B, 256 B, 4 KiB, 64 KiB, 1 MiB"
        );
    }

    #[test]
    fn odd_ranges_have_an_axis_too() {
        for values in
            [vec![], vec![0.0], vec![5.0], vec![-3.0, 4.0], vec![1e-300, 1e300], vec![7.0; 3]]
        {
            let axis = Axis::new(Quantity::Plain, values.iter().copied(), 10.0, LABELS);
            let range = axis.range();
            assert!(range.start < range.end || values == [1e-300, 1e300], "{values:?}: {range:?}");
            assert!(labels(&axis).len() <= 8, "{values:?}: {:?}", labels(&axis));
            let _ = axis.map(&1.0, (0, 100));
        }
    }

    #[test]
    fn names_of_axes_tell_units() {
        for (name, unit) in [
            ("time in ns", Quantity::Unit(Unit::Nanoseconds)),
            ("latency (ns)", Quantity::Unit(Unit::Nanoseconds)),
            ("share of samples, %", Quantity::Unit(Unit::Percent)),
            ("bandwidth [B/s]", Quantity::Unit(Unit::BytesPerSecond)),
            ("queue pairs", Quantity::Plain),
            ("", Quantity::Plain),
        ] {
            assert_eq!(Quantity::of_name(name), unit, "{name}");
        }
    }
}
