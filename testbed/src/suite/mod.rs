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

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

pub use self::logs::Failure;
use self::progress::Progress;
use crate::{
    daemon::DaemonConfig,
    error::{Error, Result},
    measure::{Kind, Program, Sizes, Transport},
    provision::{Provision, image::Image, kernel::Series, progress::Step},
    report::{Environment, Report, Settings},
    topology::{Pair, PairConfig},
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
    /// Whether bandwidth programs measure all powers of two in one run, which is quicker and less
    /// steady than a run for each size. The sizes must be powers of two then.
    pub sweep: bool,
    /// Whether the programs also run over rxe.
    pub rxe: bool,
    /// Whether TCP is measured beside them.
    pub tcp: bool,
    /// The daemon's program.
    pub daemon: PathBuf,
}

impl Options {
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

/// Builds the guest driver, boots two guests and runs everything. `since` is when the command
/// began, for the report.
///
/// # Errors
/// When the guests could not be built or booted. A program that fails is no error here, but an
/// [`Outcome`] with a failure, so that what was measured before is not lost.
pub fn run(provision: &Provision, options: &Options, since: Instant) -> Result<Outcome> {
    let image = image(provision, options.series)?;
    let mut config = PairConfig::new(Accelerator::choose(provision, &image)?);
    config.daemon = Some(DaemonConfig::vnic(&options.daemon));
    let environment = Environment::gather(provision, &image, &config, &options.daemon)?;
    let settings = Settings {
        programs: options.programs.clone(),
        transports: options.transports(),
        sizes: options.sizes.clone(),
        iterations: options.iterations,
    };
    let what = format!(
        "booting two guests with Linux {} under {}",
        environment.guest_kernel, config.accelerator
    );
    let step = Step::start(what);
    let pair = Pair::boot(&provision.qemu, &image, &config)?;
    step.done();

    let mut run = Run {
        pair: &pair,
        options,
        report: Report::new(environment, settings),
        progress: Progress::new(steps(options)),
    };
    let ended = run.everything().and_then(|()| {
        run.progress.group("looking at the kernels' logs".into());
        run.stage("the guests' kernels", |run| logs::check(run.pair))
    });
    let Run { mut report, progress, .. } = run;
    progress.finish();
    report.notes.extend(notes::of(&report, options));
    report.seconds = since.elapsed().as_secs_f64();
    let failure =
        ended.err().map(|(stage, error)| Failure::gather(stage, error, pair, &options.daemon));
    report.failure = failure.as_ref().map(Failure::headline);
    Ok(Outcome { report, failure })
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
    report: Report,
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
        for program in self.options.programs.clone() {
            for (transport, devices) in &devices {
                self.program(program, *transport, devices)?;
            }
        }
        for kind in [Kind::Latency, Kind::Bandwidth] {
            self.tcp(kind)?;
        }
        Ok(())
    }

    fn program(
        &mut self,
        program: Program,
        transport: Transport,
        devices: &[Device; 2],
    ) -> std::result::Result<(), Failed> {
        self.progress.group(format!("{program} over {transport}"));
        match program.kind() {
            // The other devices are not ours to show.
            Kind::Show if transport != Transport::Vnic => Ok(()),
            Kind::Show => self.show(devices),
            Kind::PingPong => self.ping_pong(transport, devices),
            Kind::Latency | Kind::Bandwidth => self.perftest(program, transport, devices),
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
    let programs = options.programs.iter().map(|program| match program.kind() {
        Kind::Show => 1,
        Kind::PingPong => rdma * checks::PING_PONGS.len(),
        kind if measured::sweeps(options, kind) => rdma,
        kind => rdma * options.sizes.of(kind).len(),
    });
    let tcp = [Kind::Latency, Kind::Bandwidth].map(|kind| measured::tcp_sizes(options, kind).len());
    // Setting up each device, and looking at the kernels' logs at the end.
    (programs.chain(tcp).sum::<usize>() + rdma + 1) as u64
}
