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
//! | [`distribution`] | how latencies are spread, by size |
//! | [`rate`] | messages per second, by number of queue pairs |
//! | [`bandwidth`] | large operations beside memcpy |
//! | [`crowd`] | a small operation among many queue pairs and ports |
//! | [`neighbour`] | a small operation beside another port's stream |
//! | [`wake`] | an operation that finds the device asleep |
//! | [`idle`], [`footprint`] | processor time and memory of what does nothing |
//! | [`baseline`] | what users would otherwise run |
//!
//! [`cores`] says which thread runs where, [`end`] is what a program has, [`spin`] how it waits,
//! [`trips`] what goes to and fro.

pub mod bandwidth;
pub mod baseline;
pub mod cores;
pub mod crowd;
pub mod distribution;
pub mod end;
pub mod footprint;
pub mod idle;
pub mod latency;
pub mod line;
pub mod neighbour;
pub mod rate;
pub mod spin;
pub mod trips;
pub mod wake;

use std::{fmt, path::Path, str::FromStr, thread, time::Duration};

use rustix::process::{Resource, getrlimit, setrlimit};
use vnic_abi::{config::Features, doorbell::DOORBELL_NEED_KICK};

use self::{cores::Cores, crowd::Crowd, end::End};
use crate::{
    bench::{self, Experiment, Findings},
    error::{Doing, Result},
    process::cleanup,
    process_guest::{Daemon, GuestOptions, Layout, RamFile, verbs::Endpoint},
    provision::progress::Step,
};

/// What this lane is called in reports.
pub const LANE: &str = "data path";

/// RAM of a guest with large buffers. Much more than is touched, so that there is room in one piece.
const RAM: u64 = 512 << 20;

/// Bytes of the largest transfer.
const LARGEST: u64 = 64 << 20;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Small operations beside a cache line's round trip.
    Latency,
    /// How latencies are spread, by size.
    Distribution,
    /// Messages per second.
    Rate,
    /// Large operations beside memcpy.
    Bandwidth,
    /// A small operation among many queue pairs and ports.
    Crowd,
    /// A small operation beside another port's stream.
    Neighbour,
    /// An operation that finds the device asleep.
    Wake,
    /// Processor time of an idle daemon.
    Idle,
    /// Memory of idle objects.
    Footprint,
    /// What users would otherwise run.
    Others,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Latency,
        Self::Distribution,
        Self::Rate,
        Self::Bandwidth,
        Self::Crowd,
        Self::Neighbour,
        Self::Wake,
        Self::Idle,
        Self::Footprint,
        Self::Others,
    ];

    /// What it is called on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Distribution => "distribution",
            Self::Rate => "rate",
            Self::Bandwidth => "bandwidth",
            Self::Crowd => "crowd",
            Self::Neighbour => "neighbour",
            Self::Wake => "wake",
            Self::Idle => "idle",
            Self::Footprint => "footprint",
            Self::Others => "others",
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
    /// The fullest daemon.
    pub most: crowd::Size,
    /// Leave out what takes long, and say less surely how it is.
    pub quick: bool,
}

impl Effort {
    /// What the figures in the documentation were taken with.
    pub const FULL: Self = Self {
        rounds: 9,
        samples: 30,
        operations: 1000,
        most: crowd::Size { ports: 64, qps: 10_000 },
        quick: false,
    };

    /// A first look.
    pub const QUICK: Self = Self { rounds: 3, samples: 10, quick: true, ..Self::FULL };
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
    /// Whether `subject` is measured.
    pub fn has(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

/// Two guests on one daemon.
pub struct Bed {
    /// Ends with [`LARGEST`] bytes in large pages, for who measures bandwidth.
    pub large: Option<(End, End)>,
    /// The first guest.
    pub a: Endpoint,
    /// The second guest.
    pub b: Endpoint,
    /// The daemon.
    pub daemon: Daemon,
    /// Who runs where.
    pub cores: Cores,
    /// Workers of the daemon.
    pub workers: u32,
    /// Workers that have no core of their own.
    pub sharing: usize,
    /// What the guests' RAM is made of.
    pub ram_file: RamFile,
}

impl Bed {
    /// Starts the daemon at `program` and both guests, for what `plan` says.
    ///
    /// # Errors
    /// If threads cannot be kept on their cores.
    ///
    /// # Panics
    /// If the daemon or a guest does not start.
    pub fn start(program: &Path, plan: &Plan, cores: Cores) -> Result<Self> {
        let daemon = Daemon::of(program).port("a").port("b").workers(plan.workers).start();
        let wants_large = plan.has(Subject::Bandwidth) || plan.has(Subject::Others);
        let ram_file = if wants_large { RamFile::largest() } else { RamFile::Memfd };
        let boot = |port: &str, host| {
            let init = Some(Features::ATOMIC);
            let options = GuestOptions { ram: RAM, ram_file, init, ..GuestOptions::default() };
            Endpoint::boot_with(&daemon.socket(port), host, options)
        };
        let (a, b) = (boot("a", 1), boot("b", 2));
        let sharing = cores.pin_workers(daemon.pid())?;
        // First of all, while there is room in one piece.
        let large = wants_large.then(|| End::one_way(&a, &b, LARGEST, Layout::Large));
        let workers = plan.workers;
        Ok(Self { large, a, b, daemon, cores, workers, sharing, ram_file })
    }

    /// Waits until the workers that serve the guests have announced that they sleep, so that their
    /// cores are free.
    ///
    /// # Errors
    /// If they find no sleep.
    pub fn rest(&self) -> Result<()> {
        for guest in [&self.a, &self.b] {
            asleep(guest, self.workers)?;
        }
        Ok(())
    }
}

/// Waits until all of the daemon's `workers` have announced to `guest` that they sleep.
///
/// # Errors
/// If they do not.
pub fn asleep(guest: &Endpoint, workers: u32) -> Result<()> {
    let page = guest.ctx.doorbell_page();
    // A bit each, as far as there are any.
    let all = workers.min(u32::BITS);
    let sleep = || page.load32(DOORBELL_NEED_KICK.into()).count_ones() >= all;
    spin::until(|| sleep().then_some(()))?;
    // Between its word and its sleep there is a last look.
    thread::sleep(Duration::from_micros(100));
    Ok(())
}

/// The daemons that are compared, the fullest one last; or it alone, or none.
fn crowds(program: &Path, plan: &Plan, cores: &Cores) -> Result<Vec<Crowd>> {
    let all = crowd::sizes(plan.effort);
    let wanted = match (plan.has(Subject::Crowd), plan.has(Subject::Idle)) {
        (true, _) => &all[..],
        (false, true) => &all[all.len() - 1..],
        (false, false) => return Ok(Vec::new()),
    };
    let step = Step::start("starting crowded daemons");
    let mut crowds = Vec::new();
    for size in wanted {
        step.detail(&size.to_string());
        crowds.push(Crowd::start(program, plan.workers, cores, *size)?);
    }
    step.done();
    Ok(crowds)
}

/// Lets this process and the daemons that it starts have as many descriptors as the system allows:
/// a guest needs some twenty on each side.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer, the failure to open one more will tell.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Runs what `plan` says with the daemon at `program`.
///
/// # Errors
/// When threads cannot be kept on their cores, or an operation fails.
///
/// # Panics
/// If the device refuses what it must grant, as in a test.
pub fn run(program: &Path, plan: &Plan) -> Result<Findings> {
    cleanup::on_interrupt().doing(|| "handle interrupts".into())?;
    raise_descriptor_limit();
    let cores = Cores::choose()?;
    let bed = Bed::start(program, plan, cores)?;
    let effort = plan.effort;
    let crowds = crowds(program, plan, &cores)?;
    let mut experiments: Vec<Box<dyn Experiment + '_>> = Vec::new();
    for subject in Subject::ALL.into_iter().filter(|subject| plan.has(*subject)) {
        experiments.push(match subject {
            Subject::Latency => Box::new(latency::Latency::new(&bed, effort)),
            Subject::Distribution => Box::new(distribution::Distribution::new(&bed, effort)),
            Subject::Rate => Box::new(rate::Rate::new(&bed, effort)),
            Subject::Bandwidth => Box::new(bandwidth::Bandwidth::new(&bed, effort)),
            Subject::Crowd => Box::new(crowd::Among::new(&crowds, cores, effort)),
            Subject::Neighbour => {
                Box::new(neighbour::Neighbour::start(program, plan.workers, cores, effort)?)
            }
            Subject::Wake => Box::new(wake::Wake::new(&bed, effort)),
            Subject::Idle => match crowds.last() {
                Some(crowd) => Box::new(idle::Idle::new(crowd, effort)),
                None => continue,
            },
            Subject::Footprint => Box::new(footprint::Footprint::new(program, effort)),
            Subject::Others => Box::new(baseline::Beside::new(&bed, effort)),
        });
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
