// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a bench found, for programs.

use serde::{Deserialize, Serialize};

use super::{
    Findings,
    machine::Machine,
    sample::{Figure, Samples},
};
use crate::error::{Doing, Result};

/// Version of the shape of [`Report`]. Raised when a reader of the old shape would fail.
pub const SCHEMA: u32 = 1;

/// Everything that a run of a bench found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Name of the bench.
    pub bench: String,
    /// Whether it was cut short on request, so that its figures say less.
    pub quick: bool,
    /// Where it ran.
    pub machine: Machine,
    /// Figures.
    pub rows: Vec<Row>,
    /// Goals.
    pub verdicts: Vec<Verdict>,
    /// Lines for plots.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub curves: Vec<Curve>,
    /// What a reader has to know.
    pub notes: Vec<String>,
    /// Why figures are to be doubted; the notes have it as well.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
    /// How long it took.
    pub seconds: f64,
    /// The command that ran it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<String>,
    /// The commit that was measured, and whether files differed from it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub commit: Option<String>,
}

/// One figure, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Where it was measured; set by [`run`](super::run).
    pub lane: String,
    /// What was measured.
    pub subject: String,
    /// The case of it.
    pub case: String,
    /// Over which device, where more than one is measured; else empty.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub device: String,
    /// The figure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub figure: Option<Figure>,
    /// Its median in each round, for comparisons with another run.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rounds: Vec<f64>,
    /// Where the case lies among others of its subject and device, if they can be plotted along an axis:
    /// bytes of a message, queue pairs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<f64>,
    /// Why there is no figure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing: Option<String>,
    /// What it is compared with, in the same rounds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compared: Option<Compared>,
}

/// A line of a plot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The plot that it belongs to, which is its heading: "8 B, one way".
    pub plot: String,
    /// What the line shows: "RDMA WRITE".
    pub label: String,
    /// Name of the horizontal axis, with its unit.
    pub x: String,
    /// Name of the vertical axis, with its unit.
    pub y: String,
    /// Places of the line in ascending order.
    pub points: Vec<(f64, f64)>,
}

/// A ratio to another row of the same subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// How many times the other one.
    pub times: f64,
    /// The other one.
    pub with: String,
    /// Where the ratio lies with 95 % confidence, where that was asked and there were enough rounds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub within: Option<(f64, f64)>,
}

impl Row {
    /// A row with a figure; without samples, it says so.
    pub fn new(subject: &str, case: impl Into<String>, figure: Option<Figure>) -> Self {
        Self {
            lane: String::new(),
            subject: subject.into(),
            case: case.into(),
            device: String::new(),
            figure,
            rounds: Vec::new(),
            at: None,
            missing: figure.is_none().then(|| "no samples".into()),
            compared: None,
        }
    }

    /// A row of `samples`, with the median of each round.
    pub fn of(subject: &str, case: impl Into<String>, samples: &Samples) -> Self {
        let rounds = samples.round_medians();
        Self { rounds, ..Self::new(subject, case, samples.figure()) }
    }

    /// Gives it a place on an axis.
    #[must_use]
    pub fn at(mut self, place: f64) -> Self {
        self.at = Some(place);
        self
    }

    /// Says over which device it was.
    #[must_use]
    pub fn over(mut self, device: &str) -> Self {
        self.device = device.into();
        self
    }

    /// Adds a ratio, if there is one.
    #[must_use]
    pub fn times(mut self, times: Option<f64>, with: &str) -> Self {
        self.compared = times.map(|times| Compared { times, with: with.into(), within: None });
        self
    }

    /// Says where the ratio lies with 95 % confidence.
    #[must_use]
    pub fn within(mut self, interval: Option<(f64, f64)>) -> Self {
        if let Some(compared) = &mut self.compared {
            compared.within = interval;
        }
        self
    }

    /// Says why there is no figure.
    #[must_use]
    pub fn missing(mut self, why: impl Into<String>) -> Self {
        self.missing = Some(why.into());
        self
    }
}

/// A goal that a figure met or missed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Where it was measured; set by [`run`](super::run).
    pub lane: String,
    /// The goal, in words that name the number.
    pub goal: String,
    /// The number; `None` if it could not be had, and then the goal is missed.
    pub found: Option<f64>,
    /// Its bound.
    pub limit: f64,
    /// Whether the number depends on times, so that a busy machine may spoil it.
    #[serde(default)]
    pub timed: bool,
    /// Whether the bound is the least that will do; else it is the most.
    #[serde(default)]
    pub at_least: bool,
    /// Whether the goal is met.
    pub met: bool,
}

impl Verdict {
    /// Met by a number of `limit` or less.
    pub fn at_most(goal: impl Into<String>, found: Option<f64>, limit: f64) -> Self {
        Self::new(goal.into(), found, limit, false)
    }

    /// Met by a number of `limit` or more.
    pub fn at_least(goal: impl Into<String>, found: Option<f64>, limit: f64) -> Self {
        Self::new(goal.into(), found, limit, true)
    }

    fn new(goal: String, found: Option<f64>, limit: f64, at_least: bool) -> Self {
        let lane = String::new();
        let mut verdict = Self { lane, goal, found, limit, timed: false, at_least, met: false };
        verdict.met = verdict.met_within(1.0);
        verdict
    }

    /// Says that the number depends on times.
    #[must_use]
    pub fn timed(mut self) -> Self {
        self.timed = true;
        self
    }

    /// Whether the goal is met, or missed by a factor of less than `slack` where times decide. For
    /// tests, which others disturb: what is only counted has to be right there too.
    pub fn met_within(&self, slack: f64) -> bool {
        let slack = if self.timed { slack } else { 1.0 };
        self.found.is_some_and(|found| {
            if self.at_least { found >= self.limit / slack } else { found <= self.limit * slack }
        })
    }
}

impl Report {
    /// A report of `findings`.
    pub fn new(bench: &str, quick: bool, machine: Machine, findings: Findings) -> Self {
        let Findings { rows, verdicts, curves, notes } = findings;
        Self {
            schema: SCHEMA,
            bench: bench.into(),
            quick,
            machine,
            rows,
            verdicts,
            curves,
            notes,
            warnings: Vec::new(),
            seconds: 0.0,
            command: None,
            commit: None,
        }
    }

    /// Goals that were missed.
    pub fn missed(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.met)
    }

    /// The serialised form.
    ///
    /// # Errors
    /// None in practice: every part of a report can be serialised.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).doing(|| "serialise the report".into())? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_could_not_be_had_meets_no_goal() {
        assert!(!Verdict::at_most("", None, 1.5).met && !Verdict::at_least("", None, 1.5).met);
        assert!(!Verdict::at_most("", Some(f64::NAN), 1.5).met);
        assert!(
            Verdict::at_most("", Some(1.5), 1.5).met && !Verdict::at_most("", Some(1.6), 1.5).met
        );
        assert!(Verdict::at_least("", Some(2.0), 1.5).met);
        assert!(!Verdict::at_least("", Some(1.0), 1.5).met);
    }

    #[test]
    fn a_busy_machine_excuses_only_times() {
        let (count, time) =
            (Verdict::at_most("", Some(3.0), 2.0), Verdict::at_most("", Some(3.0), 2.0).timed());
        assert!(
            !count.met_within(2.0) && time.met_within(2.0) && !time.met && !time.met_within(1.2)
        );
        assert!(Verdict::at_least("", Some(1.0), 1.5).timed().met_within(2.0));
        assert!(!Verdict::at_least("", None, 1.5).timed().met_within(2.0));
    }
}
