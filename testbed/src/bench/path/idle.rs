// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processor time of a daemon that serves many ports and queue pairs, none of which does anything.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Effort, crowd::Crowd};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Unit, Verdict, machine},
    error::Result,
};

/// Percent of a processor that an idle daemon may use.
const GOAL: f64 = 0.5;

/// The experiment.
pub struct Idle<'c> {
    crowd: &'c Crowd,
    time: Duration,
    used: Samples,
    wakes: Samples,
}

impl<'c> Idle<'c> {
    /// Watches the daemon of `crowd`.
    pub fn new(crowd: &'c Crowd, effort: Effort) -> Self {
        let time = Duration::from_millis(effort.operations);
        let (used, wakes) = (Samples::new(Unit::Percent), Samples::new(Unit::PerSecond));
        Self { crowd, time, used, wakes }
    }
}

impl Experiment for Idle<'_> {
    fn name(&self) -> &str {
        "processor time of an idle daemon"
    }

    fn round(&mut self) -> Result<()> {
        let pid = self.crowd.daemon.pid();
        machine::wait_until_asleep(pid)?;
        let before = (machine::processor_time(pid), machine::wakes(pid)?);
        let since = Instant::now();
        thread::sleep(self.time);
        let after = (machine::processor_time(pid), machine::wakes(pid)?);
        let took = since.elapsed();
        let used = after.0.saturating_sub(before.0).as_secs_f64();
        self.used.push_round(vec![100.0 * used / took.as_secs_f64()]);
        let wakes = (after.1 - before.1) as f64 / took.as_secs_f64();
        self.wakes.push_round(vec![wakes]);
        Ok(())
    }

    fn findings(&self) -> Findings {
        let size = self.crowd.size;
        let mut findings = Findings::default();
        let row = |subject, samples| Row::of(subject, size.to_string(), samples).over("vNIC");
        findings.rows.push(row("processor time of an idle daemon", &self.used));
        findings.rows.push(row("wake-ups of an idle daemon", &self.wakes));
        let found = self.used.figure().map(|figure| figure.median);
        let goal = format!("percent of a core that an idle daemon uses, {size}");
        findings.verdicts.push(Verdict::at_most(goal, found, GOAL).timed());
        findings
    }
}
