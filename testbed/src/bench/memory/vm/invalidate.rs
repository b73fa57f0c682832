// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Taking pages away from a process, by what a device does meanwhile. Without an open device the
//! kernel has no notifier to call for the process: that is what all others are compared with.

use super::{
    Effort,
    bed::{Bed, Over},
    program::{Answer, PROGRAM},
};
use crate::{
    bench::{
        Experiment, Findings, Row, Samples, Verdict,
        machine::{wait_until_asleep, wakes},
    },
    counters,
    error::{Error, Result},
};
use std::time::Duration;

const GATE: &str = "/tmp/memory-bench.gate";
const LIMIT: Duration = Duration::from_secs(60);

/// The program's word, the device, and the case.
const MODES: [(&str, Over, &str); 5] = [
    ("none", Over::Vnic, "no device open"),
    ("idle", Over::Vnic, "device open and idle"),
    ("elsewhere", Over::Vnic, "device busy for another process"),
    ("there", Over::Vnic, "device reading those pages"),
    ("idle", Over::Rxe, "pages pinned, device idle"),
];

/// The program's word, and the call.
const CALLS: [(&str, &str); 3] =
    [("dontneed", "MADV_DONTNEED"), ("protect", "mprotect"), ("unmap", "munmap")];

const PAGES: [u64; 2] = [1, 1024];

/// Place of the mode in which nothing may happen on the host.
const IDLE: usize = 1;

/// The experiment.
pub struct Invalidate<'b> {
    bed: &'b Bed,
    effort: Effort,
    /// By mode, then call, then number of pages.
    samples: Vec<Vec<Samples>>,
    idle: Idle,
    /// Pages written by the device that was to be busy.
    busy: f64,
}

/// Looks more at an idle device that was woken.
const AGAIN: usize = 4;

/// What happened while the device was open and idle.
#[derive(Debug, Default)]
struct Idle {
    calls: usize,
    looks: usize,
    invalidations: u64,
    waits: u64,
    /// Of the daemon, in the quietest look.
    wakes: Option<u64>,
}

impl<'b> Invalidate<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let series = || (0..CALLS.len() * PAGES.len()).map(|_| Samples::times()).collect();
        let samples = MODES.iter().map(|_| series()).collect();
        Self { bed, effort, samples, idle: Idle::default(), busy: 0.0 }
    }

    /// Runs the program, and `around` it the look at what the host sees of it.
    fn measure(&mut self, mode: usize) -> Result<Answer> {
        let (word, over, _) = MODES[mode];
        let guest = self.bed.guest();
        guest.shell(format!("rm -f {GATE}")).run()?;
        let arguments = [word, GATE];
        let running =
            self.bed.program("invalidate", over, self.effort.samples, &arguments).spawn()?;
        running.wait_for_output("ready", LIMIT)?;
        let before = (mode == IDLE).then(|| self.look()).transpose()?;
        guest.write_file(GATE, b"", 0o600)?;
        running.wait_for_output("measured", LIMIT)?;
        if let Some(before) = before {
            let after = self.look()?;
            self.idle.calls += self.effort.samples * CALLS.len() * PAGES.len();
            self.idle.looks += 1;
            self.idle.invalidations += after.1 - before.1;
            self.idle.waits += after.2 - before.2;
            let wakes = after.0 - before.0;
            self.idle.wakes = Some(self.idle.wakes.map_or(wakes, |least| least.min(wakes)));
        }
        guest.shell(format!("rm -f {GATE}")).run()?;
        Answer::read(&running.wait(LIMIT)?.success()?.stdout_text())
    }

    /// How often the daemon was woken, and the module's invalidations and waits.
    fn look(&self) -> Result<(u64, u64, u64)> {
        wait_until_asleep(self.bed.daemon())?;
        let woken = wakes(self.bed.daemon())?;
        let counters = counters::of_module(self.bed.guest())?;
        let count = |name: &str| {
            counters.get(name).copied().ok_or_else(|| Error::Unread {
                program: PROGRAM.into(),
                what: format!("the module has no counter {name}"),
                output: format!("{counters:?}"),
            })
        };
        Ok((woken, count("invalidations")?, count("invalidation_waits")?))
    }
}

impl Experiment for Invalidate<'_> {
    fn name(&self) -> &str {
        "taking pages away"
    }

    fn round(&mut self) -> Result<()> {
        for mode in 0..MODES.len() {
            let mut answer = self.measure(mode)?;
            // A wake-up may be the driver's regular look for a sign of life; what an invalidation
            // causes is there every time.
            for _ in 0..AGAIN {
                if mode == IDLE && self.idle.wakes != Some(0) {
                    answer = self.measure(mode)?;
                }
            }
            self.busy += answer.count("invalidate/writes").unwrap_or(0.0);
            let keys = CALLS.iter().flat_map(|(word, _)| PAGES.map(|pages| (word, pages)));
            for ((word, pages), samples) in keys.zip(&mut self.samples[mode]) {
                samples.push_round(answer.take(&format!("invalidate/{word}/{pages}")));
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let calls = CALLS.iter().flat_map(|(_, call)| PAGES.map(|pages| (call, pages)));
        for (index, (call, pages)) in calls.enumerate() {
            let subject = format!("{call}, {pages} page{}", if pages == 1 { "" } else { "s" });
            for (mode, (word, over, case)) in MODES.into_iter().enumerate() {
                let samples = &self.samples[mode][index];
                let device = if word == "none" { "-" } else { over.name() };
                let row = Row::of(&subject, case, samples).over(device);
                // Whoever unmaps what a device uses wants an error, not a time.
                if samples.is_empty() && word == "there" {
                    continue;
                }
                let times = samples.against(&self.samples[0][index]).filter(|_| mode != 0);
                findings.rows.push(row.times(times, "no device"));
            }
        }
        let Idle { calls, looks, invalidations, waits, wakes } = self.idle;
        let goal = "invalidations seen by the module for each call, device idle";
        let each = (calls > 0).then(|| invalidations as f64 / calls as f64);
        findings.verdicts.push(Verdict::at_least(goal, each, 1.0));
        let goal = "waits of the module for the device, device idle";
        findings.verdicts.push(Verdict::at_most(goal, Some(waits as f64), 0.0));
        let each = calls / looks.max(1);
        let goal =
            format!("wake-ups of the daemon in the quietest look at {each} calls, device idle");
        findings.verdicts.push(Verdict::at_most(goal, wakes.map(|wakes| wakes as f64), 0.0));
        let goal = "WRITEs of the device while it was to be busy";
        findings.verdicts.push(Verdict::at_least(goal, Some(self.busy), 1.0));
        findings
    }
}
