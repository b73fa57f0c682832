// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `ibv_reg_mr` and `ibv_dereg_mr`: a device that pins does work for each page, the vNIC for none.

use std::collections::BTreeMap;

use super::{
    Effort,
    bed::{Bed, MEMORY, Over},
};
use crate::{
    bench::{
        Experiment, Findings, Row, Samples, Verdict,
        memory::{FLAT, size},
        sample,
    },
    error::Result,
};

const SIZES: [u64; 5] = [4 << 10, 1 << 20, 64 << 20, 1 << 30, 64 << 30];

/// The largest size in a quick look, for whoever touches or pins it.
const QUICK: u64 = 64 << 20;

/// Whether a processor has written to the memory before.
const STATES: [&str; 2] = ["untouched", "touched"];

type Key = (&'static str, Over, &'static str, u64);

/// The experiment.
pub struct Register<'b> {
    bed: &'b Bed,
    effort: Effort,
    samples: BTreeMap<String, Samples>,
    missing: BTreeMap<String, String>,
}

fn name((what, over, state, bytes): Key) -> String {
    format!("{what}/{}/{state}/{bytes}", over.name())
}

impl<'b> Register<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        Self { bed, effort, samples: BTreeMap::new(), missing: BTreeMap::new() }
    }

    /// Sizes that are worth trying, or why one is not.
    fn refusal(&self, over: Over, state: &str, bytes: u64) -> Option<String> {
        let takes_memory = over == Over::Rxe || state == "touched";
        // Trying would only call the guest's out-of-memory killer.
        if takes_memory && bytes > u64::from(MEMORY) << 20 {
            let verb = if over == Over::Rxe { "pinned" } else { "touched" };
            return Some(format!("cannot be {verb} in {MEMORY} MiB"));
        }
        (takes_memory && self.effort.quick && bytes > QUICK)
            .then(|| "left out of a quick run".into())
    }

    fn samples(&self, key: Key) -> Option<&Samples> {
        self.samples.get(&name(key))
    }

    fn row(&self, key: Key) -> Row {
        let (what, over, state, bytes) = key;
        let samples = self.samples(key);
        let case = format!("{}, {state}", size(bytes));
        let row = match samples {
            Some(samples) => Row::of(what, case, samples),
            None => Row::new(what, case, None),
        };
        let row = row.over(over.name()).at(bytes as f64);
        let row = match self.missing.get(&name(key)) {
            Some(why) => row.missing(why),
            None => row,
        };
        if over == Over::Rxe {
            let vnic = self.samples((what, Over::Vnic, state, bytes));
            return row.times(samples.zip(vnic).and_then(|(rxe, vnic)| rxe.against(vnic)), "vNIC");
        }
        let smallest = self.samples((what, over, state, SIZES[0])).filter(|_| bytes != SIZES[0]);
        let times = samples.zip(smallest).and_then(|(this, smallest)| this.against(smallest));
        row.times(times, &size(SIZES[0]))
    }
}

impl Experiment for Register<'_> {
    fn name(&self) -> &str {
        "registering memory"
    }

    fn round(&mut self) -> Result<()> {
        for state in STATES {
            for over in Over::ALL {
                let mut asked = Vec::new();
                for bytes in SIZES {
                    match self.refusal(over, state, bytes) {
                        None => asked.push(bytes),
                        Some(why) => {
                            for what in ["register", "deregister"] {
                                self.missing.insert(name((what, over, state, bytes)), why.clone());
                            }
                        }
                    }
                }
                let words = asked.iter().map(u64::to_string).collect::<Vec<_>>();
                let arguments =
                    [state].into_iter().chain(words.iter().map(String::as_str)).collect::<Vec<_>>();
                let mut answer =
                    self.bed.measure("register", over, self.effort.samples, &arguments)?;
                for bytes in asked {
                    for what in ["register", "deregister"] {
                        let (from, to) =
                            (format!("{what}/{bytes}"), name((what, over, state, bytes)));
                        if let Some(why) = answer.missing(&from) {
                            self.missing.insert(to.clone(), why.into());
                        }
                        let samples = self.samples.entry(to).or_insert_with(Samples::times);
                        samples.push_round(answer.take(&from));
                    }
                }
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for what in ["register", "deregister"] {
            for state in STATES {
                for bytes in SIZES {
                    for over in Over::ALL {
                        findings.rows.push(self.row((what, over, state, bytes)));
                    }
                }
            }
        }
        let flat = SIZES.map(|bytes| self.samples(("register", Over::Vnic, "untouched", bytes)));
        let flat = flat.into_iter().collect::<Option<Vec<_>>>();
        let found = flat.and_then(|flat| sample::spread_of(&flat));
        let goal = "ibv_reg_mr of 4 KiB to 64 GiB over the vNIC, slowest over quickest";
        findings.verdicts.push(Verdict::at_most(goal, found, FLAT).timed());
        findings
    }
}
