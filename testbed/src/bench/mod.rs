// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Benches: what the device costs, measured and told in one way.
//!
//! - [`sample`]: samples taken in rounds, and the figure that they make.
//! - [`report`]: rows, verdicts and notes of a run, as a structure; [`table`] is the same for people.
//! - [`machine`]: where a run took place, and whether it was quiet there.
//! - [`memory`]: registration, translation, faults and invalidation.
//! - [`path`]: what an operation costs from queue to queue.
//!
//! A bench is a list of [`Experiment`]s. Their rounds are interleaved, so that a slow minute of the
//! machine meets all of them, and what is compared is compared within a round.

pub mod machine;
pub mod memory;
pub mod path;
pub mod report;
pub mod sample;
pub mod table;
pub mod wire;

pub use self::{
    machine::Machine,
    report::{Compared, Curve, Report, Row, Verdict},
    sample::{Figure, Samples, Unit},
};
use crate::{error::Result, provision::progress::Step};

/// One thing that is measured, in rounds.
pub trait Experiment {
    /// What it measures, as a phrase: "registering memory".
    fn name(&self) -> &str;

    /// Takes the samples of one more round.
    ///
    /// # Errors
    /// When the round could not be completed; its samples are void then.
    fn round(&mut self) -> Result<()>;

    /// What all rounds have found.
    fn findings(&self) -> Findings;
}

/// What an experiment or a lane of them found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Figures.
    pub rows: Vec<Row>,
    /// Goals, met or missed.
    pub verdicts: Vec<Verdict>,
    /// Lines for plots.
    pub curves: Vec<Curve>,
    /// What a reader of the figures has to know.
    pub notes: Vec<String>,
}

impl Findings {
    /// Adds those of another experiment.
    pub fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.verdicts.extend(other.verdicts);
        self.curves.extend(other.curves);
        self.notes.extend(other.notes);
    }
}

/// Runs `rounds` rounds of all experiments, each round of one after the same round of the other, and
/// gathers what they found. `lane` names them in the progress on standard error.
///
/// # Errors
/// Those of the first round that failed.
pub fn run(
    lane: &str,
    experiments: &mut [Box<dyn Experiment + '_>],
    rounds: usize,
) -> Result<Findings> {
    let parts = experiments.len() * rounds;
    let what = format!("{lane}: {} experiments, {rounds} rounds", experiments.len());
    let step = Step::counted(what, parts);
    for round in 1..=rounds {
        for experiment in &mut *experiments {
            step.detail(&format!("round {round} of {rounds}: {}", experiment.name()));
            experiment.round()?;
            step.advance();
        }
    }
    let mut findings = Findings::default();
    for experiment in experiments {
        findings.extend(experiment.findings());
    }
    for row in &mut findings.rows {
        row.lane = lane.into();
    }
    for verdict in &mut findings.verdicts {
        verdict.lane = lane.into();
    }
    step.done();
    Ok(findings)
}
