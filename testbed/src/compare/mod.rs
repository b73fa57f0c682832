// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two runs of the same bench: what changed beyond noise.
//!
//! - [`rank`] compares the rounds of one figure with those of another.
//! - [`entry`]: the figures of a report, of whatever kind, with their rounds.
//! - [`table`]: the result for people.
//! - [`gate`]: when a change is to fail a command.
//!
//! A figure has **changed** if three things are so:
//!
//! 1. The 95 % confidence interval of the change leaves out 0 ([`rank`] says which, and why).
//! 2. It still stands when all rows are looked at together. Of 100 rows that did not change, 5 have an
//!    interval that leaves out 0, by its very definition; so the p-values go through the procedure of
//!    Benjamini and Hochberg, which lets at most 5 % of what is called changed be chance.
//! 3. It is at least [`FLOOR`], below which builds of the same code differ by where things lie, and more
//!    than runs of one side differ among themselves, where a side has several.
//!
//! What passes the first, but not all, is told as a **hint**. Rounds know the noise within a run, and
//! nothing of what differs from run to run, such as where memory lies. So several runs of a side say much
//! more than one with more rounds.

pub mod entry;
pub mod gate;
pub mod rank;
pub mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::entry::{Entry, Run};
use crate::{
    bench::Unit,
    error::{Doing, Result},
};

/// The least relative change that is worth telling.
pub const FLOOR: f64 = 0.02;

/// What one run cannot say.
const SINGLE: &str = "a side has one run: what differs from run to run, such as where memory lies, looks like a \
    change; several runs of both sides show how far apart they are without one";

/// Everything that can be said about two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The run that is compared with.
    pub old: Run,
    /// The run that is looked at.
    pub new: Run,
    /// Why the comparison is to be doubted, or says less than it could.
    pub warnings: Vec<String>,
    /// Figures that both runs have, in the order of the new one.
    pub changes: Vec<Change>,
    /// Names of figures that only the old run has.
    pub gone: Vec<String>,
    /// Names of figures that only the new run has.
    pub added: Vec<String>,
}

/// One figure in both runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Where it was measured.
    pub lane: String,
    /// What was measured.
    pub subject: String,
    /// The case of it.
    pub case: String,
    /// Over which device, where there are several.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub device: String,
    /// What the numbers count.
    pub unit: Unit,
    /// The figure in the old run.
    pub old: f64,
    /// The figure in the new one.
    pub new: f64,
    /// Rounds of both.
    pub rounds: (usize, usize),
    /// The change as a part of the old figure: 0.1 is a tenth more. `None` if that was 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub change: Option<f64>,
    /// Where the change lies with 95 % confidence.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub interval: Option<(f64, f64)>,
    /// Probability of rounds that differ at least as much, if nothing has changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p: Option<f64>,
    /// How far runs of one side are apart at most, as a part of the figure, where there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spread: Option<f64>,
    /// What comes of it.
    pub finding: Finding,
}

/// What a comparison says about a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Changed, for the worse.
    Worse,
    /// Changed, for the better.
    Better,
    /// Changed, and neither direction is the better one.
    Different,
    /// Apart when looked at alone; but among so many figures it may be chance, or runs of one side are as
    /// far apart.
    Hint,
    /// Nothing beyond noise.
    Steady,
    /// There are too few rounds for an interval, so that noise is not known.
    Unknown,
}

impl Change {
    /// How much worse it became, as a part of the old figure: negative if better. `None` if neither
    /// direction is worse, or the old figure was 0.
    pub fn worse_by(&self) -> Option<f64> {
        let change = self.change?;
        self.unit.more_is_better().map(|more| if more { -change } else { change })
    }

    /// Names the figure in a line.
    pub fn name(&self) -> String {
        entry::name(&self.lane, &self.subject, &self.case, &self.device)
    }
}

impl Comparison {
    /// Compares two runs.
    pub fn new(old: (Run, Vec<Entry>), new: (Run, Vec<Entry>)) -> Self {
        let key = |entry: &Entry| (entry.name(), entry.unit as u8);
        let keys = old.1.iter().map(key).collect::<Vec<_>>();
        let mut before = BTreeMap::<_, Vec<Entry>>::new();
        // Backwards, so that of equal names the first one is taken first.
        for entry in old.1.into_iter().rev() {
            before.entry(key(&entry)).or_default().push(entry);
        }
        let (mut changes, mut added) = (Vec::new(), Vec::new());
        for entry in new.1 {
            match before.get_mut(&key(&entry)).and_then(Vec::pop) {
                Some(old) => changes.push(change(&old, &entry)),
                None => added.push(entry.name()),
            }
        }
        let left = keys.into_iter().filter(|key| before.get_mut(key).and_then(Vec::pop).is_some());
        let gone = left.map(|(name, _)| name).collect();
        judge(&mut changes);
        let mut warnings = entry::warnings(&old.0, &new.0);
        warnings.extend(too_few(&changes));
        if old.0.count == 1 || new.0.count == 1 {
            warnings.push(SINGLE.into());
        }
        Self { old: old.0, new: new.0, warnings, changes, gone, added }
    }

    /// The serialised form.
    ///
    /// # Errors
    /// None in practice: every part of a comparison can be serialised.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).doing(|| "serialise the comparison".into())? + "\n")
    }

    /// Figures of which this was found, the largest change first.
    pub fn found(&self, finding: Finding) -> Vec<&Change> {
        let mut found = self.changes.iter().filter(|c| c.finding == finding).collect::<Vec<_>>();
        let size = |change: &Change| change.change.map_or(f64::INFINITY, f64::abs);
        found.sort_by(|a, b| size(b).total_cmp(&size(a)));
        found
    }
}

fn change(old: &Entry, new: &Entry) -> Change {
    let positive = old.rounds.iter().chain(&new.rounds).all(|value| *value > 0.0);
    let scale = old.value.abs();
    let relative = |distance: f64| (scale > 0.0).then_some(distance / scale);
    // Times change by a factor; what may be 0 or less can only be subtracted.
    let shift = if positive {
        rank::shift(&old.rounds, &new.rounds, |old, new| new / old - 1.0)
    } else {
        rank::shift(&old.rounds, &new.rounds, |old, new| new - old)
    };
    let part = |distance| if positive { Some(distance) } else { relative(distance) };
    let interval = shift.and_then(|shift| shift.interval);
    let bounds = interval.and_then(|(low, high)| Some((part(low)?, part(high)?)));
    Change {
        lane: new.lane.clone(),
        subject: new.subject.clone(),
        case: new.case.clone(),
        device: new.device.clone(),
        unit: new.unit,
        old: old.value,
        new: new.value,
        rounds: (old.rounds.len(), new.rounds.len()),
        change: shift.map_or_else(|| relative(new.value - old.value), |shift| part(shift.estimate)),
        interval: bounds,
        p: shift.map(|shift| shift.p),
        spread: old.spread().into_iter().chain(new.spread()).max_by(f64::total_cmp),
        // Looked at alone for now.
        finding: match interval {
            None => Finding::Unknown,
            Some((low, high)) if low > 0.0 || high < 0.0 => Finding::Hint,
            Some(_) => Finding::Steady,
        },
    }
}

/// Looks at all of them together.
fn judge(changes: &mut [Change]) {
    let passed = passed(&changes.iter().filter_map(|change| change.p).collect::<Vec<_>>());
    for change in changes.iter_mut().filter(|change| change.finding == Finding::Hint) {
        let up = change.change.map_or(change.new > change.old, |change| change > 0.0);
        change.finding = match change.change {
            Some(part) if part.abs() < FLOOR => Finding::Steady,
            _ if change.p.is_none_or(|p| p > passed) => Finding::Hint,
            Some(part) if change.spread.is_some_and(|spread| factor(part) <= spread) => {
                Finding::Hint
            }
            _ => match change.unit.more_is_better() {
                None => Finding::Different,
                Some(more) if more == up => Finding::Better,
                Some(_) => Finding::Worse,
            },
        };
    }
}

/// A change by as much in the other direction is as large: half is as far away as twice.
fn factor(part: f64) -> f64 {
    if part >= 0.0 || part <= -1.0 { part.abs() } else { 1.0 / (1.0 + part) - 1.0 }
}

/// The largest p-value that still counts, by Benjamini and Hochberg.
fn passed(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let bound = |rank: usize| rank as f64 / all.len() as f64 * rank::ERROR;
    let counts = sorted.iter().enumerate().filter(|(index, p)| **p <= bound(index + 1));
    counts.map(|(_, p)| *p).next_back().unwrap_or(0.0)
}

/// Rounds that both runs need, so that one changed figure among `figures` can be told from chance.
pub fn rounds_needed(figures: usize) -> usize {
    let enough =
        |rounds: &usize| rank::least_p(*rounds, *rounds) <= rank::ERROR / figures.max(1) as f64;
    (2..).find(enough).unwrap_or(usize::MAX)
}

/// Whether this many rounds could show that one figure among `figures` changed.
fn can_tell(rounds: (usize, usize), figures: usize) -> bool {
    rank::least_p(rounds.0, rounds.1) <= rank::ERROR / figures.max(1) as f64
}

fn too_few(changes: &[Change]) -> Vec<String> {
    let all = changes.iter().filter(|change| change.p.is_some()).count();
    let mut warnings = Vec::new();
    let none = changes.iter().filter(|change| change.rounds.0 == 0 || change.rounds.1 == 0).count();
    if none > 0 {
        warnings.push(format!(
            "{none} of {} figures were measured once: there is no confidence interval, and nothing says \
             how much of a change is noise",
            changes.len()
        ));
    }
    let mut seen = Vec::new();
    for change in changes.iter().filter(|change| change.p.is_some()) {
        if !can_tell(change.rounds, all) && !seen.contains(&change.rounds) {
            seen.push(change.rounds);
        }
    }
    for (old, new) in seen {
        let count = changes.iter().filter(|change| change.rounds == (old, new)).count();
        warnings.push(format!(
            "{count} figures have {old} and {new} rounds, in which one change among {all} figures cannot \
             be told from chance: measure both with --rounds {}",
            rounds_needed(all)
        ));
    }
    warnings
}

#[cfg(test)]
mod tests;
