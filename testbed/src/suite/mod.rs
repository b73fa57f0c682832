// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The whole comparison: two guests on one daemon, every program over the vNIC, over rxe and, as
//! far as that compares, over TCP.
//!
//! - [`run`] boots the guests and runs everything; a program that fails ends the run.
//! - [`Outcome`] holds the report of what was measured, and the failure with the logs.

mod checks;
mod logs;
mod measured;
mod notes;
mod progress;
mod taken;
mod usage;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

pub use self::logs::Failure;
use self::{measured::Paces, progress::Progress, taken::Taken, usage::Meter};
use crate::{
    bench::{Machine, Verdict},
    daemon::DaemonConfig,
    error::{Error, Result},
    host::Watch,
    measure::{GOALS, Goal, Kind, Program, Sizes, Transport, goals},
    provision::{Provision, image::Image, kernel::Series, progress::Step},
    report::{Environment, Report, Settings},
    topology::{Pair, PairConfig, Pin},
    vm::Accelerator,
    workload::{rdma::Device, rxe, vnic},
};

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The guests' kernel.
    pub series: Series,
    /// The programs, in this order.
    pub programs: Vec<Program>,
    /// The sizes.
    pub sizes: Sizes,
    /// Iterations of every measurement; if not given, as many as fit into `goal`.
    pub iterations: Option<u64>,
    /// About how long one measurement takes.
    pub goal: Duration,
    /// The same of those that goals are about.
    pub steady: Duration,
    /// How often what goals are about is measured, at least once. Rounds are as far apart as all of them
    /// take, and what is compared is compared within a round.
    pub rounds: usize,
    /// Whether everything else is measured as often.
    pub repeat_all: bool,
    /// Whether the programs also run over rxe.
    pub rxe: bool,
    /// Whether TCP is measured beside them.
    pub tcp: bool,
    /// When the guests' processors and the daemon's workers get processors of their own.
    pub pin: Pin,
    /// Whether the guests' memory is of huge pages.
    pub huge_pages: bool,
    /// The daemon's program.
    pub daemon: PathBuf,
}

/// MiB that the host should have left beside the guests' memory.
const SPARE_MIB: u64 = 512;

impl Options {
    /// Why figures from `machine` are to be doubted.
    pub fn warnings(&self, machine: &Machine) -> Vec<String> {
        let mut warnings = machine.warnings();
        // Huge pages are set aside already, and asked for before guests start.
        if !self.huge_pages {
            let guests = 2 * u64::from(PairConfig::new(Accelerator::Tcg).memory);
            warnings.extend(machine.conditions.too_little_memory_for(guests + SPARE_MIB));
        }
        warnings
    }

    /// The sizes that a round measures.
    fn sizes_in(&self, round: usize, program: Program) -> Vec<u64> {
        let all = self.sizes.of(program.kind()).iter().copied();
        all.filter(|&bytes| round == 0 || self.repeat_all || goals::concern(program, bytes))
            .collect()
    }

    /// Whether what a goal compares is measured.
    pub fn decides(&self, goal: &Goal) -> bool {
        self.rxe
            && self.programs.contains(&goal.program)
            && self.sizes.of(goal.program.kind()).contains(&goal.bytes)
    }

    fn goal_of(&self, program: Program, bytes: u64) -> Duration {
        if goals::concern(program, bytes) { self.steady } else { self.goal }
    }

    fn transports(&self) -> Vec<Transport> {
        let all = [(Transport::Vnic, true), (Transport::Rxe, self.rxe), (Transport::Tcp, self.tcp)];
        all.into_iter().filter_map(|(transport, wanted)| wanted.then_some(transport)).collect()
    }

    /// Whether a program of this kind is run that TCP is compared with.
    fn needs_tcp(&self, kind: Kind) -> bool {
        self.tcp && self.programs.iter().any(|p| p.kind() == kind && p.compares_with_tcp())
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// All that was measured.
    pub report: Report,
    /// Why it ended early, if it did.
    pub failure: Option<Failure>,
}

/// Builds the guest driver, boots two guests and runs everything. `machine` was looked at before, and
/// `since` is when the command began, for the report.
///
/// # Errors
/// When the guests could not be built or booted. A program that fails is no error here, but an
/// [`Outcome`] with a failure, so that what was measured before is not lost.
pub fn run(
    provision: &Provision,
    options: &Options,
    machine: &Machine,
    since: Instant,
) -> Result<Outcome> {
    let image = image(provision, options.series)?;
    let mut config = PairConfig::new(Accelerator::choose(provision, &image)?);
    config.daemon = Some(DaemonConfig::vnic(&options.daemon));
    config.huge_pages = options.huge_pages;
    let mut environment = Environment::gather(provision, &image, &config, &options.daemon)?;
    let settings = Settings {
        programs: options.programs.clone(),
        transports: options.transports(),
        sizes: options.sizes.clone(),
        iterations: options.iterations,
        rounds: options.rounds,
        repeat_all: options.repeat_all,
    };
    let what = format!(
        "booting two guests with Linux {} under {}",
        environment.guest_kernel, config.accelerator
    );
    let step = Step::start(what);
    let pair = Pair::boot(&provision.qemu, &image, &config)?;
    step.done();
    let pinning = pair.pin(options.pin)?;
    eprintln!("pinning: {pinning}");
    let mut warnings = options.warnings(machine);
    warnings.extend(pinning.warnings.iter().cloned());
    environment.conditions = Some(machine.conditions.clone());
    environment.pinning = Some(pinning);

    let mut run = Run {
        pair: &pair,
        options,
        meter: Meter::new(&pair)?,
        report: Report { warnings, ..Report::new(environment, settings) },
        taken: Taken::default(),
        paces: Paces::default(),
        progress: Progress::new(steps(options)),
    };
    let watch = Watch::begin();
    let ended = run.everything().and_then(|()| {
        run.progress.group("looking at the kernels' logs".into());
        run.stage("the guests' kernels", |run| logs::check(run.pair))
    });
    let over = watch.end();
    let Run { mut report, taken, progress, .. } = run;
    progress.finish();
    report.measurements = taken.all();
    report.verdicts = verdicts(&report, options);
    report.warnings.extend(over.warnings());
    report.over = Some(over);
    report.notes.extend(notes::of(&report, options));
    report.seconds = since.elapsed().as_secs_f64();
    let failure =
        ended.err().map(|(stage, error)| Failure::gather(stage, error, pair, &options.daemon));
    report.failure = failure.as_ref().map(Failure::headline);
    Ok(Outcome { report, failure })
}

/// Holds the report against the goals that it can decide.
fn verdicts(report: &Report, options: &Options) -> Vec<Verdict> {
    let asked = GOALS.iter().filter(|goal| options.decides(goal));
    let verdicts = asked.map(|goal| {
        let of = |transport| report.find(goal.program, transport, goal.bytes);
        let mut verdict = goal.verdict(of(Transport::Vnic), of(Transport::Rxe));
        let environment = &report.environment;
        verdict.lane =
            format!("Linux {} under {}", environment.guest_kernel, environment.accelerator);
        verdict
    });
    verdicts.collect()
}

/// Builds the guest driver, and the image with it.
fn image(provision: &Provision, series: Series) -> Result<Image> {
    let kernel = provision.kernel(series)?;
    let overlays = provision.guest_driver(&kernel)?;
    provision.image(&kernel, &overlays)
}

/// What failed, and how.
type Failed = (String, Error);

struct Run<'a> {
    pair: &'a Pair,
    options: &'a Options,
    meter: Meter,
    report: Report,
    taken: Taken,
    paces: Paces,
    progress: Progress,
}

impl Run<'_> {
    fn everything(&mut self) -> std::result::Result<(), Failed> {
        self.progress.group("setting up".into());
        let vnic = self.stage("setting up the vNIC", |run| vnic::set_up(run.pair))?;
        let mut devices = vec![(Transport::Vnic, vnic)];
        if self.options.rxe {
            let rxe = self.stage("setting up rxe", |run| rxe::set_up(run.pair))?;
            devices.push((Transport::Rxe, rxe));
        }
        for round in 0..self.options.rounds.max(1) {
            for program in self.options.programs.clone() {
                for (transport, devices) in &devices {
                    self.program(program, *transport, devices, round)?;
                }
            }
            if round == 0 || self.options.repeat_all {
                for kind in [Kind::Latency, Kind::Bandwidth] {
                    self.tcp(kind)?;
                }
            }
        }
        Ok(())
    }

    fn program(
        &mut self,
        program: Program,
        transport: Transport,
        devices: &[Device; 2],
        round: usize,
    ) -> std::result::Result<(), Failed> {
        let again = if round == 0 { String::new() } else { format!(", round {}", round + 1) };
        self.progress.group(format!("{program} over {transport}{again}"));
        match program.kind() {
            // The other devices are not ours to show, and nothing of it changes.
            Kind::Show if transport != Transport::Vnic || round != 0 => Ok(()),
            Kind::Show => self.show(devices),
            Kind::PingPong => self.ping_pong(transport, devices, round),
            Kind::Latency | Kind::Bandwidth => self.perftest(program, transport, devices, round),
        }
    }

    /// Runs one step; a failure is told with the name of the step.
    fn stage<T>(
        &mut self,
        name: impl Into<String>,
        step: impl FnOnce(&mut Self) -> Result<T>,
    ) -> std::result::Result<T, Failed> {
        let name = name.into();
        self.progress.start(&name);
        let result = step(self);
        self.progress.done(result.is_ok());
        result.map_err(|error| (name, error))
    }
}

/// Number of calls of [`Run::stage`], for the progress bar.
fn steps(options: &Options) -> u64 {
    let rdma = options.transports().iter().filter(|t| **t != Transport::Tcp).count();
    let tcp = [Kind::Latency, Kind::Bandwidth].map(|kind| measured::tcp_sizes(options, kind).len());
    let in_round = |round: usize| {
        let programs = options.programs.iter().map(|&program| match program.kind() {
            Kind::Show => usize::from(round == 0),
            Kind::PingPong => rdma * checks::ping_pongs(options, round).len(),
            Kind::Latency | Kind::Bandwidth => match options.sizes_in(round, program).len() {
                0 => 0,
                // And one that sets up only.
                sizes => rdma * (sizes + 1),
            },
        });
        let tcp = if round == 0 || options.repeat_all { tcp.iter().sum() } else { 0 };
        programs.sum::<usize>() + tcp
    };
    // Setting up each device, and looking at the kernels' logs at the end.
    ((0..options.rounds.max(1)).map(in_round).sum::<usize>() + rdma + 1) as u64
}
