// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All chosen cases with all chosen kernels.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    case::Case,
    machine::{Blueprint, Machines},
    progress::Progress,
    result::{CaseResult, Verdict},
    trial::Trial,
};
use crate::{
    error::{Doing, Result},
    provision::{Provision, kernel::Series},
};

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cases, in this order.
    pub cases: Vec<&'static Case>,
    /// The kernels of the guests.
    pub series: Vec<Series>,
    /// How long each case has traffic.
    pub each: Duration,
    /// How long the case has in which everything happens.
    pub together: Duration,
    /// The daemon's program.
    pub daemon: PathBuf,
    /// What is between the guests.
    pub wire: Wire,
}

/// What is between the guests of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// Nothing: one daemon serves both.
    None,
    /// TCP, between a daemon for each.
    Tcp,
    /// rxe, between two hosts that are virtual machines and have a guest inside each. They run this daemon, which was
    /// built with what it needs for RDMA devices.
    Rxe(PathBuf),
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One for each case and kernel.
    pub results: Vec<CaseResult>,
    /// Logs of the cases that failed: folder, name, text.
    pub logs: Vec<(String, String, String)>,
}

impl Outcome {
    /// Whether no case failed.
    pub fn is_well(&self) -> bool {
        self.results.iter().all(|result| result.verdict != Verdict::Failed)
    }

    /// Writes every log into a folder below `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_logs(&self, folder: &Path) -> Result<()> {
        for (case, name, text) in &self.logs {
            let folder = folder.join(case);
            fs::create_dir_all(&folder).at("make", &folder)?;
            let path = folder.join(name.replace([' ', '(', ')', ':', '/'], "-") + ".log");
            fs::write(&path, text).at("write", &path)?;
        }
        Ok(())
    }
}

/// Builds what is needed, boots guests and runs the cases. Guests are kept from case to case as
/// long as none fails.
///
/// # Errors
/// When driver, programs or images cannot be built. Everything else is told in the [`Outcome`].
pub fn run(provision: &Provision, options: &Options) -> Result<Outcome> {
    let mut plans = Vec::new();
    for series in &options.series {
        plans.push(Blueprint::draw(provision, *series, &options.daemon, &options.wire)?);
    }
    let mut outcome = Outcome::default();
    let mut progress = Progress::new(plans.len() * options.cases.len());
    for plan in &plans {
        let mut machines: Option<Machines> = None;
        for case in &options.cases {
            let time = case.time(options.each, options.together);
            let mut result = CaseResult::new(case, &plan.kernel.release, time);
            let mut outputs = Vec::new();
            let name = format!("{} with Linux {}", case.name, plan.kernel.release);
            if machines.as_ref().is_none_or(|machines| machines.shape != case.shape) {
                // First away with the old ones: there is one daemon's worth of processors.
                machines = None;
                progress.start(format!("{name}: booting"));
                match Machines::boot(provision, plan, case.shape) {
                    Ok(booted) => machines = Some(booted),
                    Err(error) => result.fail(format!("cannot boot: {error}")),
                }
            }
            progress.start(name);
            if let Some(machines) = &machines {
                let trial = Trial { machines, case, time, progress: &progress };
                if let Err(error) = trial.run(&mut result, &mut outputs) {
                    result.fail(error.to_string());
                }
            }
            progress.done(&result);
            if result.verdict == Verdict::Failed {
                let folder = format!("{}-{}", case.name, plan.kernel.series);
                outputs.push(("why".into(), result.reasons.join("\n")));
                // Machines on which something failed prove nothing about the next case.
                outputs.extend(machines.take().iter().flat_map(logs));
                let logs = outputs.into_iter().map(|(name, text)| (folder.clone(), name, text));
                outcome.logs.extend(logs);
            } else if result.verdict == Verdict::NotPossible {
                machines = None;
            }
            outcome.results.push(result);
        }
    }
    progress.finish();
    Ok(outcome)
}

fn logs(machines: &Machines) -> Vec<(String, String)> {
    let guests = machines.guests().into_iter();
    // A guest that is gone has a console all the same.
    let logs =
        guests.filter_map(|g| Some((format!("dmesg of guest {}", g.name()), g.dmesg().ok()?)));
    logs.chain(machines.logs()).collect()
}
