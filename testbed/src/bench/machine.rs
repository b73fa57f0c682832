// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The machine that a bench runs on, and whether it is quiet there.

use std::{
    fs,
    hint::black_box,
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::sample::Samples;
use crate::{
    error::{Doing, Error, Result},
    host::{Conditions, Watch},
    report::environment,
};

/// Busy processors, other than by the bench, from which on figures are doubtful.
const LOAD: f64 = 0.5;

/// Slowest quarter over quickest piece of equal work, from which on others take the processor away.
const JITTER: f64 = 1.2;

/// How long the processor is looked at: some ticks of the kernel's, in which stolen time is told.
const LOOK: Duration = Duration::from_millis(200);

/// Where a run took place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// When it began, in UTC.
    pub date: String,
    /// Model of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Tasks that wanted a processor in the minute before the run.
    pub load: f64,
    /// How much longer than the quickest the slowest quarter of equal pieces of work took.
    pub jitter: f64,
    /// What else moves figures from outside.
    #[serde(default)]
    pub conditions: Conditions,
}

impl Machine {
    /// Asks the machine; takes about 0.2 s, in which it keeps a processor busy. What the machine does not
    /// tell is "unknown" or 0.
    pub fn look() -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|word| word.parse().ok());
        let watch = Watch::begin();
        let jitter = jitter();
        let seen = watch.end();
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            cpu: environment::cpu(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_mib: environment::memory_mib(),
            kernel: environment::kernel(),
            load: load.unwrap_or(0.0),
            jitter,
            conditions: Conditions::look(&seen),
        }
    }

    /// Why figures from here are to be doubted.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.cores < 2 {
            warnings.push(
                "one processor: device and guest take turns on it, and times contain the scheduler"
                    .into(),
            );
        }
        // What this command was built by is part of the load, and over.
        if self.load >= LOAD && self.conditions.others.is_none_or(|others| others >= LOAD) {
            warnings.push(format!(
                "the machine is busy with other things (load {:.1} on {} processors): trust ratios, \
                 not times",
                self.load, self.cores
            ));
        }
        if self.jitter >= JITTER {
            warnings.push(format!(
                "equal pieces of work take up to {:.1} times as long: the processor is shared",
                self.jitter
            ));
        }
        warnings.extend(self.conditions.warnings());
        warnings
    }

    /// The machine in a line.
    pub fn line(&self) -> String {
        let Self { cpu, cores, memory_mib, kernel, .. } = self;
        format!("{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}")
    }
}

/// How often the threads of a process have gone to sleep so far: each time, something had woken them.
///
/// # Errors
/// When the process is gone.
pub fn wakes(pid: u32) -> Result<u64> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let mut sum = 0;
    for task in fs::read_dir(&tasks).at("read", &tasks)? {
        let status = task.at("read", &tasks)?.path().join("status");
        // A thread may end meanwhile.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += lines.filter_map(|count| count.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

/// Waits until a process sleeps: until none of its threads runs, and none has been woken for a while.
///
/// # Errors
/// When it is gone, or has not come to rest after ten seconds.
pub fn wait_until_asleep(pid: u32) -> Result<()> {
    /// Longer than any worker looks for work before it sleeps.
    const REST: Duration = Duration::from_millis(5);
    const LIMIT: Duration = Duration::from_secs(10);
    let until = Instant::now() + LIMIT;
    let mut before = None;
    loop {
        let now = Some((wakes(pid)?, processor_times(pid)));
        if now == before {
            return Ok(());
        }
        if Instant::now() >= until {
            let what = format!("process {pid} has not come to rest in {LIMIT:?}");
            return Err(Error::unfit(what, "Look at what it does"));
        }
        before = now;
        thread::sleep(REST);
    }
}

/// How long the threads of a process that are there now have run so far; none if it is gone.
pub fn processor_time(pid: u32) -> Duration {
    Duration::from_nanos(processor_times(pid).into_iter().sum())
}

/// Nanoseconds that the threads of a process have run, each; empty if it is gone.
fn processor_times(pid: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = tasks.map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
    });
    times.collect()
}

/// Does equal pieces of work for [`LOOK`].
fn jitter() -> f64 {
    let mut samples = Samples::times();
    let began = Instant::now();
    while began.elapsed() < LOOK {
        let since = Instant::now();
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = black_box(state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
        }
        samples.push_time(since.elapsed());
    }
    samples.figure().map_or(1.0, |figure| figure.upper / figure.min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_is_seen_and_counted() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        wait_until_asleep(child.id()).unwrap();
        let before = wakes(child.id()).unwrap();
        assert!(before > 0 && wakes(child.id()).unwrap() == before);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(wakes(child.id()).is_err());
    }

    #[test]
    fn a_busy_machine_is_warned_of() {
        let conditions = Conditions::default();
        let quiet = Machine { cores: 2, load: 0.1, jitter: 1.0, conditions, ..Machine::look() };
        assert_eq!(quiet.warnings(), [""; 0]);
        let seen = Conditions { stolen: Some(0.5), others: Some(2.0), ..Conditions::default() };
        let busy = Machine { cores: 1, load: 3.0, jitter: 2.0, conditions: seen, ..quiet.clone() };
        assert_eq!(busy.warnings().len(), 4, "{:?}", busy.warnings());
        let over = Conditions { others: Some(0.1), ..Conditions::default() };
        let built = Machine { load: 3.0, conditions: over, ..quiet };
        assert_eq!(built.warnings(), [""; 0], "what made the load has ended");
    }
}
