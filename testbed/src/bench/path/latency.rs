// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Small operations, one at a time, beside what bounds them: a cache line's round trip between the
//! two cores.
//!
//! One way: a message goes to the other guest, is seen there, and one comes back; half of that time.
//! A WRITE is seen in memory, a SEND by its completion. Others are timed from the post to their
//! completion. No clock is read but at the ends of a sample.

use std::{sync::atomic::Ordering, time::Instant};

use super::{
    Bed, Effort,
    end::{self, End},
    line,
    trips::Trips,
};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Verdict, machine},
    error::Result,
    process_guest::verbs::Payload,
};

/// What the rows are about.
pub const SUBJECT: &str = "8 B, one at a time";

/// Bytes of an operation.
const BYTES: u32 = 8;
/// Receive elements that wait for messages.
const RECEIVES: u32 = 32;

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Write,
    Send,
    Read,
    FetchAdd,
}

/// Operations, their names, and how many times a line's round trip they may take.
const OPERATIONS: [(Operation, &str, f64); 4] = [
    (Operation::Write, "RDMA WRITE, one way", 1.8),
    (Operation::Send, "SEND/RECV, one way", 2.5),
    (Operation::Read, "RDMA READ, to its completion", 2.5),
    (Operation::FetchAdd, "FETCH_ADD, to its completion", 2.5),
];

/// The experiment.
pub struct Latency<'b> {
    bed: &'b Bed,
    effort: Effort,
    /// Ends for each operation.
    ends: [(End, End); OPERATIONS.len()],
    line: Samples,
    took: [Samples; OPERATIONS.len()],
}

impl<'b> Latency<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let ends = OPERATIONS.map(|_| End::pair(&bed.a, &bed.b, end::SHAPE, 4096));
        for ((a, b), (operation, ..)) in ends.iter().zip(OPERATIONS) {
            if operation == Operation::Send {
                for end in [a, b] {
                    let mut held = end.hold();
                    for _ in 0..RECEIVES {
                        held.receive(end.receive(BYTES)).expect("room in an empty queue");
                    }
                }
            }
        }
        let took = std::array::from_fn(|_| Samples::times());
        Self { bed, effort, ends, line: Samples::times(), took }
    }
}

impl Operation {
    /// Does it twice `count` times, one after the other.
    fn run(self, (a, b): (&End, &End), count: u64) -> Result<()> {
        if self == Self::Write {
            let mut trips = Trips::new(a, b, BYTES.into());
            trips.run(count, || ())?;
            return trips.end();
        }
        let (mut at_a, mut at_b) = (a.hold(), b.hold());
        match self {
            Self::Send => {
                let (place_a, place_b) = (a.receive(BYTES), b.receive(BYTES));
                let message = end::send(Payload::Inline(&[1; BYTES as usize]));
                for _ in 0..count {
                    at_a.post(&message)?;
                    at_b.message(place_b)?;
                    at_b.post(&message)?;
                    at_a.message(place_a)?;
                }
            }
            Self::Write | Self::Read | Self::FetchAdd => {
                let request = match self {
                    Self::FetchAdd => end::fetch_add(a.payload(BYTES), b.remote()),
                    _ => end::read(a.payload(BYTES), b.remote()),
                };
                for _ in 0..2 * count {
                    at_a.post(&request)?;
                    at_a.completion()?;
                }
            }
        }
        at_a.drain()?;
        at_b.drain()
    }
}

impl Experiment for Latency<'_> {
    fn name(&self) -> &str {
        "small operations, one at a time"
    }

    fn round(&mut self) -> Result<()> {
        // The worker looks for work before it sleeps, on the core that the echo needs.
        machine::wait_until_asleep(self.bed.daemon.pid())?;
        let Effort { samples, operations, .. } = self.effort;
        self.line.push_round(line::round_trips(&self.bed.cores, samples, operations)?);
        let _pinned = self.bed.cores.client()?;
        for (((a, b), (operation, ..)), took) in
            self.ends.iter().zip(OPERATIONS).zip(&mut self.took)
        {
            let half = operations.div_ceil(2);
            // Wakes the worker and fills caches.
            operation.run((a, b), half)?;
            // Acquire: the device counted there.
            let before = b.word().load(Ordering::Acquire);
            took.begin_round();
            for _ in 0..samples {
                let since = Instant::now();
                operation.run((a, b), half)?;
                took.push(since.elapsed().as_nanos() as f64 / (2 * half) as f64);
            }
            // What was added has to be there, or the device did something else.
            if operation == Operation::FetchAdd {
                let added = b.word().load(Ordering::Acquire) - before;
                assert_eq!(added, 2 * half * samples as u64, "FETCH_ADD adds something else");
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let line = Row::of(SUBJECT, "cache line there and back", &self.line);
        findings.rows.push(line.over("cache line"));
        for ((_, name, limit), took) in OPERATIONS.into_iter().zip(&self.took) {
            let times = took.against(&self.line);
            let row = Row::of(SUBJECT, name, took).over("vNIC");
            findings.rows.push(row.times(times, "cache line"));
            let goal = format!("8 B {name}, over a cache line's round trip");
            findings.verdicts.push(Verdict::at_most(goal, times, limit).timed());
        }
        findings
    }
}
