// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data path: what an operation costs from a program's queue to the peer's memory and back.
//!
//! One thread plays the programs of both guests and posts and polls as the provider does; the daemon
//! is a real one, reached over vhost-user. So two threads are busy, the client and a worker, each on
//! a core of its own, and what is between them is what the device costs. Limits (a cache line's round
//! trip, memcpy) and what users would otherwise run are measured in the same rounds.
//!
//! | module | measures |
//! |---|---|
//! | [`latency`] | a small operation beside a cache line's round trip |
//! | [`rate`] | messages per second, by number of queue pairs |
//!
//! [`cores`] says which thread runs where, [`end`] is what a program has, [`spin`] how it waits.

pub mod cores;
pub mod end;
pub mod latency;
pub mod line;
pub mod rate;
pub mod spin;

use std::{fmt, path::Path, str::FromStr};

use vnic_abi::config::Features;

use self::cores::Cores;
use crate::{
    bench::{self, Experiment, Findings},
    error::Result,
    process_guest::{Daemon, GuestOptions, verbs::Endpoint},
};

/// What this lane is called in reports.
pub const LANE: &str = "data path";

/// RAM of each guest: the largest transfer on both sides, and page tables.
const RAM: u64 = 512 << 20;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Small operations beside a cache line's round trip.
    Latency,
    /// Messages per second.
    Rate,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Latency, Self::Rate];

    /// What it is called on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Rate => "rate",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|subject| subject.name() == text);
        found.ok_or_else(|| format!("one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of everything.
    pub rounds: usize,
    /// Samples of a round.
    pub samples: usize,
    /// Operations whose mean time is one sample, of what takes less than a microsecond.
    pub operations: u64,
    /// Leave out what takes long, and say less surely how it is.
    pub quick: bool,
}

impl Effort {
    /// What the figures in the documentation were taken with.
    pub const FULL: Self = Self { rounds: 9, samples: 30, operations: 1000, quick: false };

    /// A first look.
    pub const QUICK: Self = Self { rounds: 3, samples: 10, operations: 1000, quick: true };
}

/// What to run, and on what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How much.
    pub effort: Effort,
    /// What; empty for everything.
    pub only: Vec<Subject>,
    /// Workers of the daemon.
    pub workers: u32,
}

impl Plan {
    fn has(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

/// Two guests on one daemon.
pub struct Bed {
    /// The first guest.
    pub a: Endpoint,
    /// The second guest.
    pub b: Endpoint,
    /// The daemon.
    pub daemon: Daemon,
    /// Who runs where.
    pub cores: Cores,
    /// Workers that have no core of their own.
    pub sharing: usize,
}

impl Bed {
    /// Starts the daemon at `program` with `workers` and both guests.
    ///
    /// # Errors
    /// If threads cannot be kept on their cores.
    ///
    /// # Panics
    /// If the daemon or a guest does not start.
    pub fn start(program: &Path, workers: u32, cores: Cores) -> Result<Self> {
        let daemon = Daemon::of(program).port("a").port("b").workers(workers).start();
        let boot = |port: &str, host| {
            let init = Some(Features::ATOMIC);
            let options = GuestOptions { ram: RAM, init, ..GuestOptions::default() };
            Endpoint::boot_with(&daemon.socket(port), host, options)
        };
        let (a, b) = (boot("a", 1), boot("b", 2));
        let sharing = cores.pin_workers(daemon.pid())?;
        Ok(Self { a, b, daemon, cores, sharing })
    }
}

/// Runs what `plan` says with the daemon at `program`.
///
/// # Errors
/// When threads cannot be kept on their cores, or an operation fails.
///
/// # Panics
/// If the device refuses what it must grant, as in a test.
pub fn run(program: &Path, plan: &Plan) -> Result<Findings> {
    let cores = Cores::choose()?;
    let bed = Bed::start(program, plan.workers, cores)?;
    let effort = plan.effort;
    let mut experiments: Vec<Box<dyn Experiment + '_>> = Vec::new();
    if plan.has(Subject::Latency) {
        experiments.push(Box::new(latency::Latency::new(&bed, effort)));
    }
    if plan.has(Subject::Rate) {
        experiments.push(Box::new(rate::Rate::new(&bed, effort)));
    }
    let mut findings = bench::run(LANE, &mut experiments, effort.rounds)?;
    findings.notes.extend(cores.notes());
    if bed.sharing > 0 {
        findings.notes.push(format!(
            "{} of {} workers have no core of their own and run where the scheduler puts them",
            bed.sharing, plan.workers
        ));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_chosen_by_name() {
        for subject in Subject::ALL {
            assert_eq!(subject.to_string().parse(), Ok(subject));
        }
        assert!("weather".parse::<Subject>().unwrap_err().contains("latency"));
    }
}
