// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon remembers of an idle object: its own memory before and after thousands are made.
//!
//! Rings lie in the guest's memory, which is shared, so that anonymous memory is what comes on top.

use std::{fs, path::PathBuf};

use vnic_abi::config::Features;

use super::{Effort, RAM, crowd::idle_qps};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Unit, Verdict},
    error::{Doing, Error, Result},
    process_guest::{
        Daemon, GuestOptions,
        verbs::{ALL_ACCESS, Endpoint, Mr},
    },
};

/// Bytes that an object may take.
const GOAL: f64 = 1024.0;
/// Rounds that measure: each needs a new daemon, and the numbers hardly differ.
const ROUNDS: usize = 3;
/// Elements of a completion queue.
const DEPTH: u32 = 16;

/// Objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    Cq,
    Mr,
    Qp,
}

const OBJECTS: [(Object, &str); 3] = [(Object::Cq, "CQ"), (Object::Mr, "MR"), (Object::Qp, "QP")];

/// The experiment.
pub struct Footprint {
    program: PathBuf,
    count: usize,
    rounds: usize,
    bytes: [Samples; OBJECTS.len()],
}

impl Footprint {
    /// Measures the daemon at `program`.
    pub fn new(program: impl Into<PathBuf>, effort: Effort) -> Self {
        let bytes = std::array::from_fn(|_| Samples::new(Unit::Bytes));
        let count = 2 * effort.operations.max(100) as usize;
        Self { program: program.into(), count, rounds: 0, bytes }
    }

    fn measure(&self, object: Object) -> Result<f64> {
        let daemon = Daemon::of(&self.program).port("a").workers(1).start();
        let options =
            GuestOptions { ram: RAM, init: Some(Features::empty()), ..GuestOptions::default() };
        let guest = Endpoint::boot_with(&daemon.socket("a"), 1, options);
        let cq = guest.cq(DEPTH);
        let (buffer, _) = guest.region(4096);
        let (mut cqs, mut mrs, mut qps) = (Vec::new(), Vec::new(), Vec::new());
        let mut make = |count: usize| match object {
            Object::Cq => cqs.extend((0..count).map(|_| guest.cq(DEPTH))),
            Object::Mr => {
                mrs.extend((0..count).map(|_| Mr::of(&guest.pd, &buffer, ALL_ACCESS)));
            }
            Object::Qp => qps.extend(idle_qps(&guest, &cq, count)),
        };
        // The first ones bring what is there once: buffers of commands, arenas of the allocator.
        make(self.count / 8 * 2);
        let before = anonymous(daemon.pid())?;
        make(self.count);
        let after = anonymous(daemon.pid())?;
        Ok((after as f64 - before as f64) / self.count as f64)
    }
}

/// Bytes of anonymous memory of a process.
fn anonymous(pid: u32) -> Result<u64> {
    let file = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&file).at("read", &file)?;
    rss_anon(&text).ok_or_else(|| {
        Error::unfit(format!("{} has no RssAnon", file.display()), "Use Linux 4.5 or newer")
    })
}

fn rss_anon(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kib << 10)
}

impl Experiment for Footprint {
    fn name(&self) -> &str {
        "memory of idle objects"
    }

    fn round(&mut self) -> Result<()> {
        if self.rounds < ROUNDS {
            self.rounds += 1;
            for (index, (object, _)) in OBJECTS.into_iter().enumerate() {
                let bytes = self.measure(object)?;
                self.bytes[index].push_round(vec![bytes]);
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for ((_, name), bytes) in OBJECTS.into_iter().zip(&self.bytes) {
            let case = format!("of {}, each {name}", self.count);
            let row = Row::of("daemon's memory for an idle object", case, bytes);
            findings.rows.push(row.over("vNIC"));
            let found = bytes.figure().map(|figure| figure.median);
            let goal = format!("bytes of the daemon for an idle {name} beyond its rings");
            findings.verdicts.push(Verdict::at_most(goal, found, GOAL));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_found_in_kib() {
        let status = "Name:\tvnic\nVmRSS:\t   9000 kB\nRssAnon:\t    1234 kB\nRssFile:\t 7 kB\n";
        assert_eq!(rss_anon(status), Some(1234 << 10));
        assert_eq!(rss_anon("Name:\tvnic\n"), None);
        assert!(anonymous(std::process::id()).unwrap() > 0);
    }
}
