// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which thread runs where: the client on one processor, the device's workers on the next ones.

use std::{fs, path::PathBuf};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::error::{Doing, Error, Result};

/// The processors of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// Where the thread runs that plays both guests.
    pub client: usize,
    /// Where the device's first worker runs, and whoever stands in for it in what is compared.
    pub worker: usize,
    /// How many this process may use.
    pub count: usize,
}

/// Processors that a process may use.
fn usable(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

impl Cores {
    /// The first two that this thread may use, or one for both.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub fn choose() -> Result<Self> {
        let set = sched_getaffinity(None).doing(|| "ask where this thread may run".into())?;
        let usable = usable(&set);
        let client = *usable
            .first()
            .ok_or_else(|| Error::unfit("no processor is left to this process", "Give it some"))?;
        let worker = usable.get(1).copied().unwrap_or(client);
        Ok(Self { client, worker, count: usable.len() })
    }

    /// Where threads run, and what is wrong with that.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "the client thread runs on core {}, the device's first worker and what it is compared \
             with on core {}",
            self.client, self.worker
        )];
        if self.client == self.worker {
            notes.push(
                "both are the same core: every hand-over waits for the scheduler, and no goal of \
                 time can be judged here"
                    .into(),
            );
        }
        notes
    }

    /// Keeps this thread on the client's core.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn client(&self) -> Result<Pinned> {
        Pinned::to(self.client)
    }

    /// Keeps this thread on the worker's core.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn worker(&self) -> Result<Pinned> {
        Pinned::to(self.worker)
    }

    /// Gives each worker of the daemon `pid` a core of its own, from the worker's core on, as far as
    /// there are cores besides the client's. Returns how many workers have to share.
    ///
    /// # Errors
    /// If there is no such daemon, or the operating system refuses.
    pub fn pin_workers(&self, pid: u32) -> Result<usize> {
        let set = sched_getaffinity(None).doing(|| "ask where this thread may run".into())?;
        let mut cores = usable(&set);
        cores.retain(|core| *core != self.client || self.client == self.worker);
        let mut sharing = 0;
        for (index, thread) in workers(pid)? {
            match cores.get(index) {
                Some(core) => sched_setaffinity(Pid::from_raw(thread), &only(*core))
                    .doing(|| format!("keep worker {index} on core {core}"))?,
                None => sharing += 1,
            }
        }
        Ok(sharing)
    }
}

/// Numbers and thread ids of a daemon's workers, whose names say what they are.
fn workers(pid: u32) -> Result<Vec<(usize, i32)>> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let mut found = Vec::new();
    for task in fs::read_dir(&tasks).at("read", &tasks)? {
        let task = task.at("read", &tasks)?.path();
        // A thread may end meanwhile.
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        let index = name.trim_end().strip_prefix("worker-").and_then(|index| index.parse().ok());
        let thread = task.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok());
        found.extend(index.zip(thread));
    }
    if found.is_empty() {
        let what = format!("process {pid} has no thread called worker-N");
        return Err(Error::unfit(what, "Measure a vnic daemon"));
    }
    Ok(found)
}

/// A thread that stays on one core until this is dropped.
#[derive(Debug)]
#[must_use = "the thread may move again when this is dropped"]
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Keeps this thread on `core`. Threads and programs that it starts meanwhile stay there, too.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn to(core: usize) -> Result<Self> {
        let before = sched_getaffinity(None).doing(|| "ask where this thread may run".into())?;
        sched_setaffinity(None, &only(core)).doing(|| format!("keep a thread on core {core}"))?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What was allowed before is allowed again, unless the cores went away meanwhile.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_stays_where_it_is_told_and_is_free_afterwards() {
        let allowed = || usable(&sched_getaffinity(None).unwrap());
        let before = allowed();
        let cores = Cores::choose().unwrap();
        assert_eq!(cores.count, before.len());
        {
            let _pinned = cores.worker().unwrap();
            assert_eq!(allowed(), [cores.worker]);
        }
        assert_eq!(allowed(), before);
    }

    #[test]
    fn workers_are_found_by_name() {
        std::thread::scope(|scope| {
            let (end, wait) = std::sync::mpsc::channel::<()>();
            let (started, ready) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new().name("worker-3".into());
            let thread = thread.spawn_scoped(scope, move || {
                started.send(()).unwrap();
                let _ = wait.recv();
            });
            ready.recv().unwrap();
            let found = workers(std::process::id()).unwrap();
            assert!(found.iter().any(|(index, _)| *index == 3), "{found:?}");
            drop(end);
            thread.unwrap().join().unwrap();
        });
    }

    #[test]
    fn one_core_is_warned_of() {
        let two = Cores { client: 0, worker: 1, count: 2 };
        assert_eq!(two.notes().len(), 1);
        assert_eq!(Cores { worker: 0, count: 1, ..two }.notes().len(), 2);
    }
}
