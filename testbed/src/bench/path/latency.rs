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
    end::{self, End, Held},
    line,
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
    /// The last value that was written in each direction.
    written: u64,
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
        Self { bed, effort, ends, written: 0, line: Samples::times(), took }
    }
}

/// Goes there and back `count` times. `value` is the last one that was written before.
fn ping_pong(
    operation: Operation,
    ends: (&End, &End),
    held: (&mut Held<'_>, &mut Held<'_>),
    value: &mut u64,
    count: u64,
) -> Result<()> {
    let (a, b) = ends;
    let (at_a, at_b) = held;
    match operation {
        Operation::Write => {
            let (to_a, to_b) = (a.remote(), b.remote());
            let (word_a, word_b) = (a.word(), b.word());
            for _ in 0..count {
                *value += 1;
                let bytes = value.to_le_bytes();
                at_a.post(&end::write(Payload::Inline(&bytes), to_b))?;
                end::arrival(word_b, *value)?;
                at_b.post(&end::write(Payload::Inline(&bytes), to_a))?;
                end::arrival(word_a, *value)?;
            }
        }
        Operation::Send => {
            let (place_a, place_b) = (a.receive(BYTES), b.receive(BYTES));
            for _ in 0..count {
                *value += 1;
                let bytes = value.to_le_bytes();
                at_a.post(&end::send(Payload::Inline(&bytes)))?;
                at_b.message(place_b)?;
                at_b.post(&end::send(Payload::Inline(&bytes)))?;
                at_a.message(place_a)?;
            }
        }
        Operation::Read => {
            let request = end::read(a.payload(BYTES), b.remote());
            for _ in 0..2 * count {
                at_a.post(&request)?;
                at_a.completion()?;
            }
        }
        Operation::FetchAdd => {
            let request = end::fetch_add(a.payload(BYTES), b.remote());
            for _ in 0..2 * count {
                at_a.post(&request)?;
                at_a.completion()?;
            }
        }
    }
    Ok(())
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
            let (mut at_a, mut at_b) = (a.hold(), b.hold());
            let value = &mut self.written;
            // The first sample wakes the worker and fills caches.
            took.begin_round();
            for sample in 0..=samples {
                let since = Instant::now();
                let half = operations.div_ceil(2);
                ping_pong(operation, (a, b), (&mut at_a, &mut at_b), value, half)?;
                let each = since.elapsed().as_nanos() as f64 / (2 * half) as f64;
                if sample > 0 {
                    took.push(each);
                }
            }
            at_a.drain()?;
            at_b.drain()?;
            // What was counted has to be there, or the device did something else.
            if operation == Operation::FetchAdd {
                let found = b.word().load(Ordering::Acquire);
                let sum = took.len() as u64 / samples as u64
                    * (samples as u64 + 1)
                    * 2
                    * operations.div_ceil(2);
                assert_eq!(found, sum, "FETCH_ADD has added something else");
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let line = Row::of(SUBJECT, "cache line there and back", &self.line);
        findings.rows.push(line.over("cache line").at(BYTES.into()));
        for ((_, name, limit), took) in OPERATIONS.into_iter().zip(&self.took) {
            let times = took.against(&self.line);
            let row = Row::of(SUBJECT, name, took).over("vNIC").at(BYTES.into());
            findings.rows.push(row.times(times, "cache line"));
            let goal = format!("8 B {name}, over a cache line's round trip");
            findings.verdicts.push(Verdict::at_most(goal, times, limit).timed());
        }
        findings
    }
}
