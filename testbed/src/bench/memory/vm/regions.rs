// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a process with many regions pays when it forks, protects or unmaps something.

use super::{
    Effort,
    bed::{Bed, Over},
};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Verdict, memory::FLAT},
    error::Result,
};

/// Regions of the process with many, and of the same in a quick run. All processes have so many
/// pages, so that only the regions differ.
const MANY: [usize; 2] = [10_000, 1_000];

const CALLS: [&str; 3] = ["fork", "mprotect", "munmap"];
const KEYS: [&str; 3] = ["regions/fork", "regions/protect", "regions/unmap"];

/// The experiment.
pub struct Regions<'b> {
    bed: &'b Bed,
    effort: Effort,
    /// By device, then number of regions, then call.
    samples: [[[Samples; CALLS.len()]; 2]; Over::ALL.len()],
    missing: Option<String>,
}

impl<'b> Regions<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let call = || std::array::from_fn(|_| Samples::times());
        let samples = std::array::from_fn(|_| std::array::from_fn(|_| call()));
        Self { bed, effort, samples, missing: None }
    }

    fn counts(&self) -> [usize; 2] {
        [1, MANY[usize::from(self.effort.quick)]]
    }
}

impl Experiment for Regions<'_> {
    fn name(&self) -> &str {
        "a process with many regions"
    }

    fn round(&mut self) -> Result<()> {
        let counts = self.counts();
        let pages = counts[1].to_string();
        for (over, samples) in Over::ALL.into_iter().zip(&mut self.samples) {
            for (count, samples) in counts.into_iter().zip(samples) {
                let arguments = [&*count.to_string(), &pages];
                // Each fork shares thousands of pages, which are then written to again.
                let times = self.effort.samples / 5 + 2;
                let mut answer = self.bed.measure("regions", over, times, &arguments)?;
                if let Some(why) = answer.missing(KEYS[0]) {
                    self.missing = Some(format!("{}: {why}", over.name()));
                }
                for (key, samples) in KEYS.into_iter().zip(samples) {
                    samples.push_round(answer.take(key));
                }
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let [one, many] = self.counts();
        for (index, call) in CALLS.into_iter().enumerate() {
            for (over, samples) in Over::ALL.into_iter().zip(&self.samples) {
                let [single, several] = samples.each_ref().map(|of| &of[index]);
                let times = several.against(single);
                for (count, samples, times) in [(one, single, None), (many, several, times)] {
                    let case = format!("{count} region{}", if count == 1 { "" } else { "s" });
                    let row = Row::of(call, case, samples).over(over.name());
                    let row = match &self.missing {
                        Some(why) if row.figure.is_none() => row.missing(why),
                        _ => row,
                    };
                    findings.rows.push(row.times(times, "1 region"));
                }
                if over == Over::Vnic {
                    let goal = format!("{call} with {many} regions over 1 region, vNIC");
                    findings.verdicts.push(Verdict::at_most(goal, times, FLAT).timed());
                }
            }
        }
        findings
    }
}
