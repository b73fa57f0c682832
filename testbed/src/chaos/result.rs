// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What one case showed, and whether that is well.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{case::Case, observe::Growth, program::Said};

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It happened, and nothing was wrong.
    Passed,
    /// Something was wrong, or the case did not happen.
    Failed,
    /// The kernel was tried and cannot do it.
    NotPossible,
}

/// One case with one kernel; numbers are of both guests together.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// Name of the case.
    pub case: String,
    /// `uname -r` of the guests.
    pub kernel: String,
    /// How long the traffic was to last.
    pub seconds: f64,
    /// Completed requests.
    pub operations: u64,
    /// The same by their kind.
    pub operations_by_kind: BTreeMap<String, u64>,
    /// Bytes that requests moved.
    pub bytes_moved: u64,
    /// Page requests that the daemon sent.
    pub faults: u64,
    /// Ranges of memory that the guests' modules took from the device.
    pub invalidations: u64,
    /// Those for which a module had to wait for the device.
    pub invalidation_waits: u64,
    /// Bytes whose contents were compared with what they had to be.
    pub bytes_checked: u64,
    /// Those that were different.
    pub wrong_bytes: u64,
    /// Completions that did not come.
    pub completions_lost: u64,
    /// The largest `VmPin` of a process with registered memory, in kB.
    pub vm_pin_kb: u64,
    /// What the programs did to their memory, and how often.
    pub mutations: BTreeMap<String, u64>,
    /// What shows that the case happened.
    pub evidence: Vec<Shown>,
    /// Lines with which the kernels complained.
    pub complaints: Vec<String>,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it did not pass.
    pub reasons: Vec<String>,
    /// What each program said at its end.
    pub programs: Vec<Said>,
}

/// A counter that shows that something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Name of the counter.
    pub name: String,
    /// By how much it grew in the left and in the right guest.
    pub grown: [u64; 2],
    /// By how much it had to grow in each.
    pub least: u64,
}

/// Evidence is asked for runs of this length, and of shorter ones in proportion.
const FULL: Duration = Duration::from_secs(20);

impl CaseResult {
    pub(super) fn new(case: &Case, kernel: &str, time: Duration) -> Self {
        Self {
            case: case.name.into(),
            kernel: kernel.into(),
            seconds: time.as_secs_f64(),
            operations: 0,
            operations_by_kind: BTreeMap::new(),
            bytes_moved: 0,
            faults: 0,
            invalidations: 0,
            invalidation_waits: 0,
            bytes_checked: 0,
            wrong_bytes: 0,
            completions_lost: 0,
            vm_pin_kb: 0,
            mutations: BTreeMap::new(),
            evidence: Vec::new(),
            complaints: Vec::new(),
            verdict: Verdict::Passed,
            reasons: Vec::new(),
            programs: Vec::new(),
        }
    }

    /// Notes that something is wrong.
    pub(super) fn fail(&mut self, reason: impl Into<String>) {
        self.verdict = Verdict::Failed;
        self.reasons.push(reason.into());
    }

    /// Takes in what a program said; `whose` names it.
    pub(super) fn take(&mut self, whose: &str, said: Said) {
        for (sums, more) in [
            (&mut self.operations_by_kind, &said.operations),
            (&mut self.mutations, &said.mutations),
        ] {
            for (name, count) in more {
                *sums.entry(name.clone()).or_default() += count;
            }
        }
        self.operations += said.all_operations();
        self.bytes_moved += said.bytes_moved;
        self.bytes_checked += said.bytes_checked;
        self.wrong_bytes += said.wrong_bytes;
        self.completions_lost += said.completions_lost;
        self.vm_pin_kb = self.vm_pin_kb.max(said.vm_pin_kb_max);
        if !said.ok {
            let mut why = Vec::new();
            if said.wrong_bytes != 0 {
                why.push(format!(
                    "{} wrong bytes, the first: {}",
                    said.wrong_bytes, said.first_wrong
                ));
            }
            if said.completions_lost != 0 || said.completions_spurious != 0 {
                let (lost, more) = (said.completions_lost, said.completions_spurious);
                why.push(format!("{lost} completions lost, {more} that nobody asked for"));
            }
            if let Some(error) = said.completion_errors.first() {
                why.push(format!("completions with an error: {error}"));
            }
            if said.faults != 0 {
                why.push(said.first_fault.clone());
            }
            if why.is_empty() {
                why.push("it is not content".into());
            }
            self.fail(format!("{whose}: {}", why.join("; ")));
        }
        self.programs.push(said);
    }

    /// Takes in what was counted, with the evidence that the case asks for.
    pub(super) fn count(&mut self, case: &Case, growth: &Growth) {
        let module = |name: &str| growth.modules.get(name).copied().unwrap_or_default();
        self.faults = growth.page_requests;
        self.invalidations = module("invalidations");
        self.invalidation_waits = module("invalidation_waits");
        let share = (self.seconds / FULL.as_secs_f64()).min(1.0);
        for evidence in case.evidence {
            let grown = [0, 1].map(|side| evidence.in_guest(&growth.kernels[side]));
            // Of a short run little is asked, but never nothing.
            let least = ((evidence.least as f64 * share) as u64).max(1);
            let name = evidence.name();
            let guests = if evidence.left_only { 1 } else { 2 };
            if grown[..guests].iter().any(|grown| *grown < least) {
                let [left, right] = grown;
                self.fail(format!(
                    "nothing was disturbed: {name} grew by {left} and {right}, not by {least}"
                ));
            }
            self.evidence.push(Shown { name: name.into(), grown, least });
        }
        let mutates = case.programs.iter().any(|program| program.mutate != "none");
        if mutates && self.mutations.values().all(|count| *count == 0) {
            self.fail("nothing was disturbed: the programs did not mutate anything");
        }
        if self.invalidations == 0 {
            self.fail("nothing was disturbed: the device lost no translation");
        }
    }

    /// Judges what is the same for all cases.
    pub(super) fn judge(&mut self) {
        if self.bytes_checked == 0 {
            self.fail("no byte was checked");
        }
        if self.vm_pin_kb != 0 {
            self.fail(format!("{} kB were pinned", self.vm_pin_kb));
        }
        if let Some(first) = self.complaints.first() {
            let text =
                format!("{} complaints of kernels, the first: {first}", self.complaints.len());
            self.fail(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::observe::Counts;

    fn case() -> &'static Case {
        Case::find("numa").unwrap()[0]
    }

    fn well() -> CaseResult {
        let mut result = CaseResult::new(case(), "6.12", Duration::from_secs(5));
        let said = Said { bytes_checked: 1, ok: true, ..Said::default() };
        result.take("left", said);
        result
    }

    fn growth(count: u64) -> Growth {
        let names = case().evidence.iter().map(|evidence| evidence.name().to_string());
        let counts = names.map(|name| (name, count)).collect::<Counts>();
        let modules = Counts::from([("invalidations".into(), 3)]);
        Growth { kernels: [counts.clone(), counts], modules, page_requests: 9 }
    }

    #[test]
    fn a_case_that_happened_and_harmed_nobody_passes() {
        let mut result = well();
        result.count(case(), &growth(64));
        result.judge();
        assert_eq!((result.verdict, &result.reasons[..]), (Verdict::Passed, &[][..]));
        assert_eq!((result.faults, result.invalidations), (9, 3));
    }

    #[test]
    fn a_case_that_did_not_happen_fails() {
        let mut result = well();
        result.count(case(), &growth(63));
        assert_eq!(result.verdict, Verdict::Failed);
        assert!(result.reasons[0].contains("nothing was disturbed"), "{:?}", result.reasons);
        let mut idle = growth(64);
        idle.modules.clear();
        let mut result = well();
        result.count(case(), &idle);
        assert_eq!(result.verdict, Verdict::Failed);
    }

    #[test]
    fn whatever_is_wrong_fails_with_a_reason() {
        let harm: [fn(&mut CaseResult); 4] = [
            |result| result.take("right", Said { wrong_bytes: 1, ..Said::default() }),
            |result| result.take("right", Said { vm_pin_kb_max: 4, ok: true, ..Said::default() }),
            |result| result.complaints.push("WARNING: x".into()),
            |result| result.bytes_checked = 0,
        ];
        for harm in harm {
            let mut result = well();
            harm(&mut result);
            result.judge();
            assert_eq!(result.verdict, Verdict::Failed);
            assert_eq!(result.reasons.len(), 1, "{:?}", result.reasons);
        }
    }
}
