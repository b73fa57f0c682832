// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a change is to fail a command.

use super::{Change, Comparison, Finding, can_tell};
use crate::error::{Error, Result};

/// Figures that are worse, beyond noise, by more than `percent`.
pub fn worse(comparison: &Comparison, percent: f64) -> Vec<&Change> {
    let mut worse = comparison.found(Finding::Worse);
    // From nothing to something is more than any part of nothing.
    worse.retain(|change| change.worse_by().is_none_or(|part| part * 100.0 > percent));
    worse
}

/// Fails if a figure is worse, beyond noise, by more than `percent`.
///
/// # Errors
/// When one is; and when the runs have too few rounds to show that any is, since a check that cannot
/// fail would only reassure.
pub fn check(comparison: &Comparison, percent: f64) -> Result<()> {
    let judged = comparison.changes.iter().filter(|change| change.p.is_some()).count();
    if !comparison.changes.iter().any(|change| can_tell(change.rounds, judged)) {
        return Err(Error::unfit(
            "the two runs cannot show that anything became worse: no figure that they share has enough \
             rounds",
            format!("Measure both with --rounds {}", super::rounds_needed(judged)),
        ));
    }
    let worse = worse(comparison, percent);
    if worse.is_empty() {
        return Ok(());
    }
    let lines = worse.iter().map(|change| {
        let by =
            change.worse_by().map_or("from 0".into(), |part| format!("by {:.1} %", part * 100.0));
        format!("\n  {by}: {}", change.name())
    });
    let count = worse.len();
    let figures = if count == 1 { "figure is" } else { "figures are" };
    Err(Error::unfit(
        format!("{count} {figures} worse by more than {percent} %:{}", lines.collect::<String>()),
        "Look for the change that made it so, or measure again if the machine was busy",
    ))
}
