// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processor time of machines, processes and threads, as the kernel tells it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};

/// Ticks of `/proc/stat` in a second, the same on every x86-64 kernel.
const TICKS: u32 = 100;

/// What all processors of a machine have done since it started, in ticks of 10 ms: the first line of
/// `/proc/stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticks {
    /// Programs, low priorities included.
    pub user: u64,
    /// The kernel on behalf of programs and of its own threads.
    pub system: u64,
    /// Interrupts and what they put off.
    pub interrupts: u64,
    /// Nothing.
    pub idle: u64,
    /// Wanted, while whoever runs this machine gave the processor to others.
    pub stolen: u64,
}

impl Ticks {
    /// How long one takes.
    pub const EACH: Duration = Duration::from_millis(1000 / TICKS as u64);

    /// Of the machine that this runs on.
    ///
    /// # Errors
    /// When `/proc/stat` is not what it should be.
    pub fn of_host() -> Result<Self> {
        const STAT: &str = "/proc/stat";
        let text = fs::read_to_string(STAT).at("read", Path::new(STAT))?;
        Self::parse(&text).ok_or_else(|| Error::Unread {
            program: STAT.into(),
            what: "its first line is not that of all processors".into(),
            output: text,
        })
    }

    /// Reads `/proc/stat`; `None` if it is something else.
    pub fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let numbers = line.split_whitespace().map(|word| word.parse().ok());
        let numbers = numbers.collect::<Option<Vec<u64>>>()?;
        let [user, nice, system, idle, waiting, hard, soft, stolen, ..] = numbers[..] else {
            return None;
        };
        Some(Self {
            user: user + nice,
            system,
            interrupts: hard + soft,
            idle: idle + waiting,
            stolen,
        })
    }

    /// What has happened since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        // The kernel's idle time is known to step back by a tick.
        let of = |field: fn(Self) -> u64| field(self).saturating_sub(field(before));
        Self {
            user: of(|t| t.user),
            system: of(|t| t.system),
            interrupts: of(|t| t.interrupts),
            idle: of(|t| t.idle),
            stolen: of(|t| t.stolen),
        }
    }

    /// Ticks in which something ran.
    pub fn busy(self) -> u64 {
        self.user + self.system + self.interrupts
    }

    /// The part of all processors' time that was stolen.
    pub fn part_stolen(self) -> f64 {
        let all = self.busy() + self.idle + self.stolen;
        if all == 0 { 0.0 } else { self.stolen as f64 / all as f64 }
    }
}

/// A thread of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// How long it has run.
    pub ran: Duration,
}

/// All threads of a process.
///
/// # Errors
/// When the process is gone.
pub fn threads(process: u32) -> Result<Vec<Thread>> {
    let folder = format!("/proc/{process}/task");
    let folder = Path::new(&folder);
    let mut threads = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |name: &str| fs::read_to_string(entry.path().join(name));
        // A thread may end meanwhile.
        let (Ok(name), Ok(times)) = (read("comm"), read("schedstat")) else { continue };
        let ran = times.split(' ').next().and_then(|word| word.parse().ok());
        let ran = Duration::from_nanos(ran.unwrap_or(0));
        threads.push(Thread { id, name: name.trim_end().into(), ran });
    }
    threads.sort_by_key(|thread| thread.id);
    Ok(threads)
}

/// How long this process, those that it has started and theirs have run, with those that are gone by
/// now if they were waited for.
pub fn of_this_process_and_below() -> Duration {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let known = processes.filter_map(|process| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        Some((process, Process::parse(&stat)?))
    });
    below(std::process::id(), &known.collect())
}

/// What matters of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// With children that were waited for.
    ticks: u64,
}

impl Process {
    fn parse(stat: &str) -> Option<Self> {
        // The name may hold anything, brackets and spaces too.
        let fields = stat.rsplit_once(')')?.1.split_whitespace().collect::<Vec<_>>();
        let ticks = fields.get(11..15)?.iter().map(|word| word.parse::<u64>().ok());
        Some(Self { parent: fields[1].parse().ok()?, ticks: ticks.sum::<Option<u64>>()? })
    }
}

fn below(top: u32, processes: &BTreeMap<u32, Process>) -> Duration {
    let mut counted = BTreeSet::new();
    let mut next = vec![top];
    let mut ticks = 0;
    while let Some(process) = next.pop() {
        if counted.insert(process) {
            ticks += processes.get(&process).map_or(0, |process| process.ticks);
            let children = processes.iter().filter(|(_, other)| other.parent == process);
            next.extend(children.map(|(number, _)| *number));
        }
    }
    Ticks::EACH * u32::try_from(ticks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const STAT: &str = "cpu  100 10 50 800 20 3 4 30 5 0\ncpu0 1 2 3 4 5 6 7 8 9 0\nintr 7\n";

    #[test]
    fn the_time_of_all_processors_is_read() {
        let ticks = Ticks::parse(STAT).unwrap();
        let expected = Ticks { user: 110, system: 50, interrupts: 7, idle: 820, stolen: 30 };
        assert_eq!((ticks, ticks.busy()), (expected, 167));
        let later = Ticks { user: 210, stolen: 130, idle: 819, ..ticks };
        let since = later.since(ticks);
        assert_eq!((since.user, since.idle, since.part_stolen()), (100, 0, 0.5));
        assert_eq!(Ticks::default().part_stolen(), 0.0);
        for text in ["", "cpu  1 2 3", "cpu0 1 2 3 4 5 6 7 8 9 0"] {
            assert_eq!(Ticks::parse(text), None, "{text}");
        }
        assert!(Ticks::of_host().unwrap().busy() > 0);
    }

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "12 (a) b) S 7 12 12 0 -1 4 1 2 3 4 10 20 30 40 20 0 1 0 99";
        assert_eq!(Process::parse(stat), Some(Process { parent: 7, ticks: 100 }));
        assert_eq!(Process::parse("12 (sh) S 7"), None);
    }

    #[test]
    fn only_what_is_below_counts() {
        let process = |parent, ticks| Process { parent, ticks };
        let all = [(1, process(0, 1000)), (5, process(1, 10)), (6, process(5, 20))];
        let all = all.into_iter().chain([(7, process(6, 30)), (8, process(1, 500))]).collect();
        assert_eq!(below(5, &all), Duration::from_millis(600));
        // A list that was read while numbers were used again may have circles.
        let circle = BTreeMap::from([(5, process(6, 1)), (6, process(5, 1))]);
        assert_eq!(below(5, &circle), Duration::from_millis(20));
    }

    #[test]
    fn a_thread_that_runs_is_seen() {
        let before = of_this_process_and_below();
        let me = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let threads = threads(std::process::id()).unwrap();
        let thread = threads.iter().find(|thread| thread.id == me).unwrap();
        assert!(!thread.ran.is_zero() && !thread.name.is_empty());
        assert!(of_this_process_and_below() >= before);
        assert!(super::threads(u32::MAX).is_err());
    }
}
