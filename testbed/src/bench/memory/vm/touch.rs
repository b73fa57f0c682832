// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The first WRITE of 8 bytes to a page. What is pinned is always there; what is not may have to be
//! had from the guest's kernel first, or even from a disk.

use super::{
    Effort,
    bed::{Bed, GROUP, Over},
};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Verdict},
    error::Result,
};

/// What the guest swaps to, by device, and its name in reports.
const SWAPS: [(&str, &str); 2] = [("zram0", "zram"), ("vda", "a disk")];

/// Key of the program, device and case.
const CASES: [(&str, Over, &str); 7] = [
    ("touch/used", Over::Vnic, "page used just before"),
    ("touch/used", Over::Rxe, "page used just before"),
    ("touch/present", Over::Vnic, "page present, not used before"),
    ("touch/present", Over::Rxe, "page pinned, not used before"),
    ("touch/minor", Over::Vnic, "minor fault"),
    ("touch/zram0", Over::Vnic, "swapped to zram"),
    ("touch/vda", Over::Vnic, "swapped to a disk"),
];

/// The experiment.
pub struct Touch<'b> {
    bed: &'b Bed,
    effort: Effort,
    samples: [Samples; CASES.len()],
    missing: [Option<String>; CASES.len()],
    /// Pages read from each swap device, and pages touched that were there.
    swapped: [(f64, f64); SWAPS.len()],
    /// Pages that were present and should not have been.
    present: f64,
}

impl<'b> Touch<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        Self {
            bed,
            effort,
            samples: std::array::from_fn(|_| Samples::times()),
            missing: Default::default(),
            swapped: Default::default(),
            present: 0.0,
        }
    }
}

impl Experiment for Touch<'_> {
    fn name(&self) -> &str {
        "touching a page first"
    }

    fn round(&mut self) -> Result<()> {
        let times = self.effort.samples;
        let rxe = self.bed.measure("touch", Over::Rxe, times, &["pinned", "-"])?;
        let mut answers = vec![(Over::Rxe, rxe)];
        for (index, (disk, _)) in SWAPS.into_iter().enumerate() {
            let answer = self.bed.swapping(disk, || {
                self.bed.measure_in_group("touch", Over::Vnic, times, &["paged", disk, GROUP])
            })?;
            self.present += answer.count("touch/minor-present").unwrap_or(f64::INFINITY);
            let read = answer.count(&format!("touch/{disk}-in")).unwrap_or(0.0);
            let (sum, wanted) = self.swapped[index];
            self.swapped[index] = (sum + read, wanted + times as f64);
            answers.push((Over::Vnic, answer));
        }
        for (index, (key, over, _)) in CASES.into_iter().enumerate() {
            let mut round = Vec::new();
            for (_, answer) in answers.iter_mut().filter(|(of, _)| *of == over) {
                if let Some(why) = answer.missing(key) {
                    self.missing[index] = Some(why.into());
                }
                round.extend(answer.take(key));
            }
            self.samples[index].push_round(round);
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for (index, (_, over, case)) in CASES.into_iter().enumerate() {
            let samples = &self.samples[index];
            let mut row = Row::of("first 8 B WRITE", case, samples).over(over.name());
            if let (Some(why), None) = (&self.missing[index], &row.figure) {
                row = row.missing(why);
            }
            let used = CASES.iter().position(|(key, of, _)| *of == over && *key == "touch/used");
            let times = used.filter(|used| *used != index);
            let times = times.and_then(|used| samples.against(&self.samples[used]));
            findings.rows.push(row.times(times, "used before"));
        }
        for ((_, name), (read, wanted)) in SWAPS.into_iter().zip(self.swapped) {
            let goal = format!("pages swapped in from {name} for each page touched");
            let each = (wanted > 0.0).then(|| read / wanted);
            findings.verdicts.push(Verdict::at_least(goal, each, 1.0));
        }
        let goal = "pages present before their minor fault";
        findings.verdicts.push(Verdict::at_most(goal, Some(self.present), 0.0));
        findings
    }
}
