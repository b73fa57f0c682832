// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From idle: a WRITE that finds the device asleep, from the post with its kick to the completion,
//! beside threads that wake each other through eventfds without any device.

use std::{
    thread,
    time::{Duration, Instant},
};

use vmm_sys_util::eventfd::EventFd;

use super::{
    Bed, Effort,
    cores::Cores,
    end::{self, End, SHAPE},
    spin::{self, Line},
};
use crate::{
    bench::{Experiment, Findings, Row, Samples},
    error::{Doing, Result},
    process_guest::verbs::Payload,
};

/// What the rows are about.
pub const SUBJECT: &str = "wake-up from idle";

/// How long everybody sleeps before a sample.
const REST: Duration = Duration::from_micros(500);

/// The experiment.
pub struct Wake<'b> {
    bed: &'b Bed,
    effort: Effort,
    ends: (End, End),
    device: Samples,
    /// One side sleeps, the other looks at memory, as the client and the device do.
    eventfd: Samples,
    /// Both sleep.
    both: Samples,
}

impl<'b> Wake<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let ends = End::pair(&bed.a, &bed.b, SHAPE, 4096);
        let new = Samples::times;
        Self { bed, effort, ends, device: new(), eventfd: new(), both: new() }
    }
}

/// How a thread that was woken says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    InMemory,
    ByEventfd,
}

/// Wakes a thread on the worker's core and waits for its answer, `samples` times.
fn eventfds(cores: &Cores, samples: usize, answer: Answer) -> Result<Vec<f64>> {
    let new = || EventFd::new(0).doing(|| "make an eventfd".into());
    let (there, back, seen) = (new()?, new()?, Line::default());
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let _pinned = cores.worker()?;
            for round in 1..=samples as u64 {
                there.read().doing(|| "read an eventfd".into())?;
                match answer {
                    Answer::InMemory => seen.set(round),
                    Answer::ByEventfd => back.write(1).doing(|| "write to an eventfd".into())?,
                }
            }
            Ok(())
        });
        let _pinned = cores.client()?;
        let mut times = Vec::with_capacity(samples);
        for round in 1..=samples as u64 {
            thread::sleep(REST);
            let since = Instant::now();
            there.write(1).doing(|| "write to an eventfd".into())?;
            match answer {
                Answer::InMemory => spin::until(|| seen.is(round))?,
                Answer::ByEventfd => back.read().map(drop).doing(|| "read an eventfd".into())?,
            }
            times.push(since.elapsed().as_nanos() as f64);
        }
        sleeper.join().expect("the sleeper does not panic")?;
        Ok(times)
    })
}

impl Experiment for Wake<'_> {
    fn name(&self) -> &str {
        "waking an idle device"
    }

    fn round(&mut self) -> Result<()> {
        let samples = self.effort.samples;
        self.eventfd.push_round(eventfds(&self.bed.cores, samples, Answer::InMemory)?);
        self.both.push_round(eventfds(&self.bed.cores, samples, Answer::ByEventfd)?);
        let _pinned = self.bed.cores.client()?;
        let (a, b) = (&self.ends.0, &self.ends.1);
        let mut held = a.hold();
        let request = end::write(Payload::Inline(&[1; 8]), b.remote());
        self.device.begin_round();
        for _ in 0..samples {
            self.bed.rest()?;
            thread::sleep(REST);
            let since = Instant::now();
            held.post(&request)?;
            held.completion()?;
            self.device.push_time(since.elapsed());
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let mut row = |case, samples, device, times| {
            findings
                .rows
                .push(Row::of(SUBJECT, case, samples).over(device).times(times, "eventfd"));
        };
        row("wakes a thread, which answers in memory", &self.eventfd, "eventfd", None);
        row("there and back, both asleep", &self.both, "eventfd", None);
        let times = self.device.against(&self.eventfd);
        row("8 B WRITE, kick to completion", &self.device, "vNIC", times);
        findings
    }
}
