// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How latencies are spread: percentiles by size, and whole distributions of small operations.
//!
//! The clock is read once for each operation, and what that takes is in each time; a row says how
//! much it is. What single operations cost without a clock is [`latency`](super::latency)'s to say.

use std::time::Instant;

use hdrhistogram::Histogram;

use super::{
    Bed, Effort,
    end::{self, End, SHAPE},
    trips::Trips,
};
use crate::{
    bench::{Curve, Experiment, Findings, Row, Samples},
    error::Result,
    measure::sizes,
    process_guest::verbs::Payload,
};

/// Bytes of an operation. Every size of the first few is sent in the element.
const SIZES: [u64; 11] =
    [2, 8, 32, 128, 512, 2 << 10, 8 << 10, 32 << 10, 128 << 10, 512 << 10, 1 << 20];
/// The sizes whose whole distribution is shown.
const SHOWN: [u64; 2] = [8, 32 << 10];

/// What is asked of a distribution, and what it is called.
const PERCENTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];
/// Operations of a round of which the last percentile says something.
const ENOUGH: u64 = 1000;

/// Times of more than this are counted as this: in nanoseconds.
const LONGEST: u64 = 1_000_000_000;
/// Receive elements that wait for messages.
const RECEIVES: u32 = 32;

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Write,
    Send,
    Read,
}

const OPERATIONS: [(Operation, &str); 3] = [
    (Operation::Write, "RDMA WRITE, one way"),
    (Operation::Send, "SEND/RECV, one way"),
    (Operation::Read, "RDMA READ, to its completion"),
];

/// One operation of one size.
struct Case {
    operation: Operation,
    name: &'static str,
    bytes: u64,
    /// Operations of a round.
    count: u64,
    all: Histogram<u64>,
    percentiles: [Samples; PERCENTILES.len()],
}

/// The experiment.
pub struct Distribution<'b> {
    bed: &'b Bed,
    /// For each operation.
    ends: [(End, End); OPERATIONS.len()],
    cases: Vec<Case>,
    clock: Samples,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds that a histogram can have")
}

impl<'b> Distribution<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let largest = SIZES.into_iter().max().unwrap_or_default();
        let ends = OPERATIONS.map(|(operation, _)| {
            let (a, b) = End::pair(&bed.a, &bed.b, SHAPE, largest);
            if operation == Operation::Send {
                for end in [&a, &b] {
                    let mut held = end.hold();
                    for _ in 0..RECEIVES {
                        held.receive(end.receive(largest as u32)).expect("room in an empty queue");
                    }
                }
            }
            (a, b)
        });
        let cases = OPERATIONS.iter().flat_map(|&(operation, name)| {
            let sizes = SIZES.into_iter().filter(|bytes| !effort.quick || is_corner(*bytes));
            sizes.map(move |bytes| Case {
                operation,
                name,
                bytes,
                count: count(effort, bytes),
                all: histogram(),
                percentiles: std::array::from_fn(|_| Samples::times()),
            })
        });
        Self { bed, ends, cases: cases.collect(), clock: Samples::times() }
    }
}

/// Whether a quick look takes the size.
fn is_corner(bytes: u64) -> bool {
    SHOWN.contains(&bytes) || bytes == 2 || bytes == 2 << 10 || bytes == 1 << 20
}

/// Operations of a round: fewer of those that take long.
fn count(effort: Effort, bytes: u64) -> u64 {
    let most = 4 * effort.operations;
    let slow = 1 + bytes / (16 << 10);
    (most / slow).max(effort.operations / 10).max(2)
}

impl Case {
    /// A round.
    fn round(&mut self, ends: (&End, &End)) -> Result<()> {
        let mut times = histogram();
        let warm_up = self.count / 10;
        let mut last = Instant::now();
        let mut left = warm_up;
        // Of the first ones nothing is noted.
        let mut note = || {
            let now = Instant::now();
            let took = now.duration_since(last).as_nanos() as u64;
            last = now;
            if left > 0 {
                left -= 1;
            } else {
                times.saturating_record(took.max(1));
            }
        };
        run(self.operation, self.bytes, ends, warm_up + self.count, &mut note)?;
        for ((part, _), samples) in PERCENTILES.into_iter().zip(&mut self.percentiles) {
            samples.push_round(vec![times.value_at_quantile(part) as f64]);
        }
        self.all.add(&times).expect("histograms of one shape");
        Ok(())
    }

    fn curve(&self) -> Curve {
        let hundredths = (0..=990).map(|part| f64::from(part) / 1000.0);
        let parts = hundredths.chain([0.993, 0.995, 0.997, 0.998, 0.999, 0.9995, 0.9999, 1.0]);
        let mut points: Vec<(f64, f64)> = Vec::new();
        for part in parts {
            let time = self.all.value_at_quantile(part) as f64;
            match points.last_mut() {
                // The highest of those at the same place.
                Some(last) if last.0 == time => last.1 = 100.0 * part,
                _ => points.push((time, 100.0 * part)),
            }
        }
        Curve {
            plot: format!("Latency of {}", sizes::text(self.bytes)),
            label: self.name.into(),
            x: "ns".into(),
            y: "% of operations".into(),
            points,
        }
    }
}

/// Does `count` operations, and calls `note` after each.
fn run(
    operation: Operation,
    bytes: u64,
    (a, b): (&End, &End),
    count: u64,
    note: &mut impl FnMut(),
) -> Result<()> {
    let length = bytes as u32;
    let content = [0; SHAPE.max_inline as usize];
    let in_element = length <= SHAPE.max_inline;
    if operation == Operation::Write {
        let mut trips = Trips::new(a, b, bytes);
        trips.run(count.div_ceil(2), note)?;
        return trips.end();
    }
    let (mut at_a, mut at_b) = (a.hold(), b.hold());
    match operation {
        Operation::Send => {
            let largest = SIZES[SIZES.len() - 1] as u32;
            let (place_a, place_b) = (a.receive(largest), b.receive(largest));
            let payload = |from: &End| from.payload(length);
            let inline = Payload::Inline(&content[..length.min(SHAPE.max_inline) as usize]);
            for _ in 0..count.div_ceil(2) {
                at_a.post(&end::send(if in_element { inline } else { payload(a) }))?;
                at_b.message(place_b)?;
                note();
                at_b.post(&end::send(if in_element { inline } else { payload(b) }))?;
                at_a.message(place_a)?;
                note();
            }
        }
        Operation::Write | Operation::Read => {
            let request = end::read(a.payload(length), b.remote());
            for _ in 0..count {
                at_a.post(&request)?;
                at_a.completion()?;
                note();
            }
        }
    }
    at_a.drain()?;
    at_b.drain()
}

/// What one reading of the clock costs, in nanoseconds.
fn clock_cost() -> f64 {
    const READINGS: u32 = 1000;
    let since = Instant::now();
    let mut last = since;
    for _ in 0..READINGS {
        last = std::hint::black_box(Instant::now());
    }
    last.duration_since(since).as_nanos() as f64 / f64::from(READINGS)
}

impl Experiment for Distribution<'_> {
    fn name(&self) -> &str {
        "distributions of latency"
    }

    fn round(&mut self) -> Result<()> {
        let _pinned = self.bed.cores.client()?;
        self.clock.push_round(vec![clock_cost()]);
        for case in &mut self.cases {
            let index = OPERATIONS.iter().position(|(operation, _)| *operation == case.operation);
            let (a, b) = &self.ends[index.expect("an operation of the list")];
            case.round((a, b))?;
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for (_, name) in OPERATIONS {
            for (index, (_, percentile)) in PERCENTILES.into_iter().enumerate() {
                let last = index + 1 == PERCENTILES.len();
                let cases = self.cases.iter().filter(|case| case.name == name);
                for case in cases.filter(|case| !last || case.count >= ENOUGH) {
                    let subject = format!("{name}: {percentile}");
                    let row = Row::of(&subject, sizes::text(case.bytes), &case.percentiles[index]);
                    findings.rows.push(row.over("vNIC").at(case.bytes as f64));
                }
            }
        }
        let clock = Row::of("reading the clock", "in each time of a distribution", &self.clock);
        findings.rows.push(clock);
        let shown = self.cases.iter().filter(|case| SHOWN.contains(&case.bytes));
        let mut curves = shown.map(Case::curve).collect::<Vec<_>>();
        curves.sort_by_key(|curve| curve.plot.len());
        findings.curves = curves;
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_and_ends_at_the_slowest() {
        let mut case = Case {
            operation: Operation::Write,
            name: "w",
            bytes: 8,
            count: 3,
            all: histogram(),
            percentiles: std::array::from_fn(|_| Samples::times()),
        };
        for time in [300, 300, 310, 900] {
            case.all.record(time).unwrap();
        }
        let points = case.curve().points;
        assert_eq!((points[0].0, points.last().copied()), (300.0, Some((900.0, 100.0))));
        let rises = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1;
        assert!(points.windows(2).all(rises), "{points:?}");
        assert!(points.contains(&(300.0, 50.0)), "{points:?}");
    }

    #[test]
    fn long_operations_are_done_less_often() {
        assert_eq!(count(Effort::FULL, 8), 4000);
        assert_eq!(count(Effort::FULL, 1 << 20), 100);
    }
}
