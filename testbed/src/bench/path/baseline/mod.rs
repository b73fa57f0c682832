// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What users would otherwise run between two programs of a host, beside a WRITE of the vNIC.
//!
//! | module | runs |
//! |---|---|
//! | [`socket`] | TCP over the loopback device, and UNIX sockets |
//! | [`ring`] | a bare ring in shared memory: no keys, no translation, no protection |
//! | [`ucx`], [`libfabric`] | their shared-memory transports, by their own unmodified tools |
//!
//! None of them lets two virtual machines talk; all of them are what is quick between processes.

pub mod libfabric;
pub mod ring;
pub mod socket;
mod tool;
pub mod ucx;

use std::time::Instant;

use super::{
    Bed, Effort, LARGEST,
    cores::Cores,
    end::{self, End, SHAPE},
    rate::{self, Senders},
    trips::Trips,
};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Unit},
    error::Result,
    measure::sizes,
};

/// Packages of Debian with the tools that are run.
pub const PACKAGES: [&str; 2] = [ucx::PACKAGE, libfabric::PACKAGE];

/// What is measured of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Nanoseconds of a message one way: half of there and back.
    OneWay,
    /// Bytes per second of a stream of messages.
    Stream,
    /// Messages per second.
    Rate,
}

impl Metric {
    /// What the rows are about.
    pub const fn subject(self) -> &'static str {
        match self {
            Self::OneWay => "one way, beside others",
            Self::Stream => "stream, beside others",
            Self::Rate => "64 B messages per second, beside others",
        }
    }

    const fn unit(self) -> Unit {
        match self {
            Self::OneWay => Unit::Nanoseconds,
            Self::Stream => Unit::BytesPerSecond,
            Self::Rate => Unit::PerSecond,
        }
    }
}

/// Numbers of a round, and what they are of.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What was measured.
    pub metric: Metric,
    /// Bytes of a message.
    pub bytes: u64,
    /// How, if it is not the usual way.
    pub how: &'static str,
    /// Numbers, in the metric's unit.
    pub values: Vec<f64>,
}

impl Found {
    /// Numbers that were measured in the usual way.
    pub const fn new(metric: Metric, bytes: u64, values: Vec<f64>) -> Self {
        Self { metric, bytes, how: "", values }
    }
}

/// Bytes of a message that is timed.
pub const ONE_WAY: [u64; 4] = [8, 4 << 10, 64 << 10, 1 << 20];
/// Bytes of a message of a stream.
const STREAM: [u64; 4] = [4 << 10, 64 << 10, 1 << 20, LARGEST];
/// Bytes of a sample of a stream, for each operation of one: the largest message fits into a thousand.
const STREAMED: u64 = 66 << 10;
/// Bytes of a message whose rate is measured.
pub const RATE: u64 = 64;

/// Samples of a round, of what this program measures itself.
pub const SAMPLES: usize = 5;

/// Messages there and back of a sample.
pub fn trips(effort: Effort, bytes: u64) -> u64 {
    (effort.operations / (1 + bytes / (16 << 10))).max(effort.operations / 100).max(2)
}

/// Bytes of the messages of streams: those that fit in a sample.
pub fn streams(effort: Effort) -> impl Iterator<Item = u64> {
    STREAM.into_iter().filter(move |bytes| *bytes <= STREAMED * effort.operations)
}

/// Messages of a sample of a stream.
pub fn messages(effort: Effort, bytes: u64) -> u64 {
    (STREAMED / 2 * effort.operations / bytes).clamp(1, 4 * effort.operations)
}

/// Something else that moves bytes.
pub trait Baseline {
    /// What it is called in reports.
    fn name(&self) -> &'static str;

    /// Measures everything once.
    ///
    /// # Errors
    /// When it cannot be had here; the report says why, and it is not tried again.
    fn round(&mut self, cores: &Cores, effort: Effort) -> Result<Vec<Found>>;

    /// What a reader has to know of its figures.
    fn note(&self) -> Option<&'static str> {
        None
    }
}

/// Samples of one line of the report.
struct Line {
    device: &'static str,
    metric: Metric,
    bytes: u64,
    how: &'static str,
    samples: Samples,
}

/// The experiment.
pub struct Beside<'b> {
    bed: &'b Bed,
    effort: Effort,
    small: (End, End),
    senders: Senders,
    baselines: Vec<Box<dyn Baseline>>,
    /// Why one could not be had.
    failed: Vec<Option<String>>,
    lines: Vec<Line>,
    rounds: usize,
}

/// Requests of a stream that are under way.
const WINDOW: u32 = 4;

/// What the vNIC is called in reports.
const VNIC: &str = "vNIC";

impl<'b> Beside<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let baselines: Vec<Box<dyn Baseline>> = vec![
            Box::new(ring::Ring),
            Box::new(ucx::Ucx),
            Box::new(libfabric::Libfabric),
            Box::new(socket::Unix),
            Box::new(socket::Tcp),
        ];
        let one_way = ONE_WAY.into_iter().max().unwrap_or_default();
        Self {
            bed,
            effort,
            small: End::pair(&bed.a, &bed.b, SHAPE, one_way),
            senders: Senders::new(bed, 1, false, None),
            failed: baselines.iter().map(|_| None).collect(),
            baselines,
            lines: Vec::new(),
            rounds: 0,
        }
    }

    /// Adds what a round has found; `rounds` are complete.
    fn add(&mut self, device: &'static str, found: Found, rounds: usize) {
        let Found { metric, bytes, how, values } = found;
        let same = |line: &&mut Line| {
            (line.device, line.metric, line.bytes, line.how) == (device, metric, bytes, how)
        };
        let line = match self.lines.iter_mut().find(same) {
            Some(line) => line,
            None => {
                let samples = Samples::new(metric.unit());
                self.lines.push(Line { device, metric, bytes, how, samples });
                self.lines.last_mut().expect("the line that was just added")
            }
        };
        // What is compared is compared within a round, also if one was left out.
        while line.samples.rounds() < rounds {
            line.samples.begin_round();
        }
        line.samples.push_round(values);
    }

    fn vnic(&mut self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        let (a, b) = (&self.small.0, &self.small.1);
        for bytes in ONE_WAY {
            let (mut trips, count) = (Trips::new(a, b, bytes), trips(self.effort, bytes));
            // The first ones wake the worker and fill caches.
            trips.time(count.div_ceil(10))?;
            let times = (0..SAMPLES).map(|_| trips.time(count)).collect::<Result<_>>()?;
            found.push(Found::new(Metric::OneWay, bytes, times));
            trips.end()?;
        }
        let (a, b) = self.bed.large.as_ref().expect("a bed with large buffers");
        for bytes in streams(self.effort) {
            let count = messages(self.effort, bytes) as u32;
            let request = end::write(a.payload(bytes as u32), b.remote());
            let mut held = a.hold();
            held.stream(&request, 1, 1)?;
            let mut sample = || {
                let since = Instant::now();
                held.stream(&request, count, WINDOW)?;
                Ok((bytes * u64::from(count)) as f64 / since.elapsed().as_secs_f64())
            };
            let rates = (0..SAMPLES).map(|_| sample()).collect::<Result<_>>()?;
            found.push(Found::new(Metric::Stream, bytes, rates));
        }
        let sample = || self.senders.run(rate::sample_time(self.effort));
        let rates = (0..SAMPLES).map(|_| sample()).collect::<Result<_>>()?;
        found.push(Found::new(Metric::Rate, RATE, rates));
        Ok(found)
    }

    fn samples_of_vnic(&self, line: &Line) -> Option<&Samples> {
        let same =
            |of: &&Line| of.device == VNIC && (of.metric, of.bytes) == (line.metric, line.bytes);
        self.lines.iter().find(same).map(|line| &line.samples)
    }
}

impl Experiment for Beside<'_> {
    fn name(&self) -> &str {
        "others"
    }

    fn round(&mut self) -> Result<()> {
        let pinned = self.bed.cores.client()?;
        let rounds = self.rounds;
        for found in self.vnic()? {
            self.add(VNIC, found, rounds);
        }
        drop(pinned);
        self.bed.rest()?;
        for index in 0..self.baselines.len() {
            if self.failed[index].is_some() {
                continue;
            }
            let name = self.baselines[index].name();
            match self.baselines[index].round(&self.bed.cores, self.effort) {
                Ok(found) => found.into_iter().for_each(|found| self.add(name, found, rounds)),
                Err(error) => self.failed[index] = Some(error.to_string()),
            }
        }
        self.rounds += 1;
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for metric in [Metric::OneWay, Metric::Stream, Metric::Rate] {
            for line in self.lines.iter().filter(|line| line.metric == metric) {
                let size = sizes::text(line.bytes);
                let case = if line.how.is_empty() { size } else { format!("{size}, {}", line.how) };
                let mut row = Row::of(metric.subject(), case, &line.samples).over(line.device);
                // The line of a plot has one point at each place.
                if line.how.is_empty() {
                    row = row.at(line.bytes as f64);
                }
                let vnic = self.samples_of_vnic(line).filter(|_| line.device != VNIC);
                let times = vnic.and_then(|vnic| line.samples.against(vnic));
                findings.rows.push(row.times(times, VNIC));
            }
        }
        for (baseline, failed) in self.baselines.iter().zip(&self.failed) {
            let name = baseline.name();
            if let Some(why) = failed {
                let row = Row::new(Metric::OneWay.subject(), "", None).over(name);
                findings.rows.push(row.missing(why));
            }
            findings.notes.extend(baseline.note().map(|note| format!("{name}: {note}")));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_sent_less_often() {
        assert_eq!((trips(Effort::FULL, 8), trips(Effort::FULL, 1 << 20)), (1000, 15));
        assert_eq!(messages(Effort::FULL, LARGEST), 1);
        assert_eq!(streams(Effort::FULL).last(), Some(LARGEST));
        assert_eq!(messages(Effort::FULL, 64), 4000);
    }
}
