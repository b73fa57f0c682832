// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Registering memory of all sizes: a command to the device and its answer.

use std::time::Instant;

use super::Bed;
use crate::{
    bench::{
        Experiment, Findings, Row, Samples, Verdict,
        memory::{Effort, FLAT, REGISTERED, size},
        sample,
    },
    error::Result,
    process_guest::{
        mapping::Reservation,
        verbs::{ALL_ACCESS, Mr},
    },
};

/// The experiment.
pub struct Register<'b> {
    bed: &'b Bed,
    /// Addresses without memory behind them: the device must not care.
    space: Reservation,
    effort: Effort,
    made: [Samples; REGISTERED.len()],
    ended: [Samples; REGISTERED.len()],
}

impl<'b> Register<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let largest = REGISTERED.into_iter().max().unwrap_or_default();
        let space = bed.b.space().reserve(largest);
        let none = || std::array::from_fn(|_| Samples::times());
        Self { bed, space, effort, made: none(), ended: none() }
    }
}

impl Experiment for Register<'_> {
    fn name(&self) -> &str {
        "registering memory"
    }

    fn round(&mut self) -> Result<()> {
        self.made.iter_mut().chain(&mut self.ended).for_each(Samples::begin_round);
        let count = REGISTERED.len();
        for sample in 0..self.effort.samples {
            // Another one comes first each time, since what comes first may find less in the caches.
            for index in (0..count).map(|place| (place + sample) % count) {
                let since = Instant::now();
                let mr = Mr::new(&self.bed.b.pd, self.space.addr(), REGISTERED[index], ALL_ACCESS);
                let mr = mr.expect("MR_CREATE");
                self.made[index].push_time(since.elapsed());
                let since = Instant::now();
                drop(mr);
                self.ended[index].push_time(since.elapsed());
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for (subject, all) in [("register", &self.made), ("deregister", &self.ended)] {
            let smallest = size(REGISTERED[0]);
            for (bytes, samples) in REGISTERED.into_iter().zip(all) {
                let row = Row::of(subject, size(bytes), samples).at(bytes as f64);
                let times = (bytes != REGISTERED[0]).then(|| samples.against(&all[0])).flatten();
                findings.rows.push(row.times(times, &smallest));
            }
        }
        let made = self.made.iter().collect::<Vec<_>>();
        let goal = "registering 4 KiB to 64 GiB, slowest over quickest";
        findings.verdicts.push(Verdict::at_most(goal, sample::spread_of(&made), FLAT).timed());
        findings
    }
}
