// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What virtualisation costs on a wire, against the verbs of the hosts themselves: in one run, over the same wire, by
//! the same program.
//!
//! - [`subject`]: who is at the ends: programs of the hosts, guests, or one of each.
//! - [`said`]: what the measuring program (`vnic/examples/wire_bench`) is asked, and what it answers.
//! - [`hosts`]: where the ends are: virtual machines that play hosts, or this machine with a device of its own.
//! - [`results`]: figures of all rounds, and their rows; [`overhead`] is the number that they are for.
//!
//! Subjects take turns, so that a slow minute of the machine meets all of them, and a ratio has an interval that comes of
//! the rounds of both sides.

pub mod hosts;
pub mod overhead;
mod results;
pub mod said;
pub mod subject;

use self::{hosts::Hosts, results::Results, said::Plan, subject::Subject};
use super::Findings;
use crate::{
    error::{Error, Result},
    provision::progress::Step,
};

/// Its name among benches.
pub const NAME: &str = "wire";

/// How much is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of everything.
    pub rounds: usize,
    /// What each round of a subject measures; whether both ends are on one machine is for [`Hosts`] to say.
    pub plan: Plan,
}

impl Effort {
    /// What the figures in the documentation were taken with.
    pub fn full() -> Self {
        Self {
            rounds: 7,
            plan: Plan {
                sizes: vec![2, 8, 64, 512, 4 << 10, 32 << 10, 256 << 10, 1 << 20],
                millis: 300,
                connections: 10,
                // A guest that is a process maps page by page, of which the kernel allows it 65530.
                regions: vec![4 << 10, 1 << 20, 64 << 20],
                registrations: 5,
                pages: 256,
                one_machine: false,
            },
        }
    }

    /// A first look.
    pub fn quick() -> Self {
        let mut effort = Self::full();
        effort.rounds = 5;
        effort.plan.sizes = vec![8, 4 << 10, 256 << 10];
        effort.plan.millis = 150;
        effort.plan.regions = vec![4 << 10, 1 << 20, 16 << 20];
        effort.plan.pages = 64;
        effort
    }

    /// Whether it works at all.
    pub fn smoke() -> Self {
        let mut effort = Self::quick();
        effort.rounds = 1;
        effort.plan.sizes = vec![8, 4 << 10];
        effort.plan.millis = 50;
        effort.plan.connections = 2;
        effort.plan.regions = vec![4 << 10];
        effort.plan.pages = 16;
        effort
    }
}

/// Measures all subjects between these hosts, a round of each after the same round of the other.
///
/// # Errors
/// When a program fails, or says something that is no answer.
pub fn run(hosts: &dyn Hosts, effort: &Effort) -> Result<Findings> {
    let plan = Plan { one_machine: hosts.one_machine(), ..effort.plan.clone() };
    let plan = serde_json::to_string(&plan).map_err(|error| unread(&error.to_string(), ""))?;
    let subjects = Subject::measured().collect::<Vec<_>>();
    let lane = hosts.lane();
    let what = format!("{lane}: {} subjects, {} rounds", subjects.len(), effort.rounds);
    let step = Step::counted(what, subjects.len() * effort.rounds);
    let mut results = Results::default();
    for round in 1..=effort.rounds {
        for &subject in &subjects {
            step.detail(&format!("round {round} of {}: {subject}", effort.rounds));
            let printed = hosts.run(subject, &plan)?;
            let said = said::parse(&printed).map_err(|what| unread(&what, &printed))?;
            results.add(subject, &said);
            step.advance();
        }
    }
    step.done();
    let mut findings = results.findings();
    findings.rows.iter_mut().for_each(|row| row.lane.clone_from(&lane));
    findings.verdicts.iter_mut().for_each(|verdict| verdict.lane.clone_from(&lane));
    findings.notes = NOTES.map(String::from).to_vec();
    findings.notes.push(match hosts.pinned()? {
        None => "direct: pinned: no".into(),
        Some(why) => format!("direct: pinned: yes, because {why}"),
    });
    Ok(findings)
}

fn unread(what: &str, output: &str) -> Error {
    Error::Unread { program: "wire_bench".into(), what: what.into(), output: output.into() }
}

/// What a reader of the figures has to know.
const NOTES: [&str; 5] = [
    "A latency is from the post of an operation to its completion, one at a time; a bandwidth or rate is of 4 to 32 at \
     a time. Both programs poll, and offer the processor to others between looks.",
    "Guests are processes that post and poll as the guests' driver does: what QEMU and a guest's kernel add is not in \
     these figures. The data path has no exit, so that is commands: connecting and registering.",
    "Processor time is that of all programs, daemons and kernels of both hosts together, polling included, from \
     /proc/stat in ticks of 10 ms.",
    "Daemons run all the time, and have nothing to do while bare verbs are measured.",
    "Bare verbs pin what they register: a page that the peer touches first was made present by the registration.",
];

#[cfg(test)]
pub(crate) mod tests;
