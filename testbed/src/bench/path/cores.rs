// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which thread runs where: the client on one core, the device's workers on the next ones.

use crate::{
    error::{Error, Result},
    host::{
        Processors,
        processors::{Processor, affinity, set_affinity},
        time::threads,
    },
};

/// What the names of the daemon's workers begin with.
const WORKER: &str = "worker-";
/// The thread that asks.
const THIS: u32 = 0;

/// The processors of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// Where the thread runs that plays both guests.
    pub client: usize,
    /// Where the device's first worker runs, and whoever stands in for it in what is compared.
    pub worker: usize,
    /// What the two have in common, if that makes them a bad choice.
    shared: Option<Shared>,
}

/// What two processors have in common, or not, that figures suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shared {
    /// They are the same one.
    Processor,
    /// They are of one core.
    Core,
    /// They are on different nodes.
    Nothing,
}

impl Cores {
    /// The first one that this thread may use, and another core of its node, as far as there is one.
    ///
    /// # Errors
    /// If no processor is left to this process.
    pub fn choose() -> Result<Self> {
        Self::among(&Processors::look().0)
            .ok_or_else(|| Error::unfit("no processor is left to this process", "Give it some"))
    }

    fn among(processors: &[Processor]) -> Option<Self> {
        let client = processors.first()?;
        let others = || processors.iter().filter(|other| other.core != client.core);
        let near = others().find(|other| other.node == client.node).map(|near| (near, None));
        let far = || others().next().map(|far| (far, Some(Shared::Nothing)));
        let sibling = || processors.get(1).map(|sibling| (sibling, Some(Shared::Core)));
        let (worker, shared) =
            near.or_else(far).or_else(sibling).unwrap_or((client, Some(Shared::Processor)));
        Some(Self { client: client.number, worker: worker.number, shared })
    }

    /// Where threads run, and what is wrong with that.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "the client thread runs on processor {}, the device's first worker and what it is \
             compared with on processor {}",
            self.client, self.worker
        )];
        let warning = self.shared.map(|shared| match shared {
            Shared::Processor => {
                "there is only one: every hand-over waits for the scheduler, and no goal of time \
                 can be judged here"
            }
            Shared::Core => "both are of one core: a hand-over is quicker, and all else slower",
            Shared::Nothing => "they are on different nodes: every hand-over takes longer",
        });
        notes.extend(warning.map(String::from));
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

    /// Gives each worker of the daemon `pid` a processor of its own, the worker's to the first one, as
    /// far as there are any besides the client's. Returns how many workers have to share.
    ///
    /// # Errors
    /// If there is no such daemon, or the operating system refuses.
    pub fn pin_workers(&self, pid: u32) -> Result<usize> {
        let mut processors = affinity(THIS)?;
        processors.retain(|other| ![self.client, self.worker].contains(other));
        processors.insert(0, self.worker);
        let workers = workers(pid)?;
        for (index, thread) in &workers {
            if let Some(processor) = processors.get(*index) {
                set_affinity(*thread, &[*processor])?;
            }
        }
        Ok(workers.len().saturating_sub(processors.len()))
    }
}

/// Numbers and thread ids of a daemon's workers, whose names say what they are.
fn workers(pid: u32) -> Result<Vec<(usize, u32)>> {
    let threads = threads(pid)?;
    let number = |name: &str| name.strip_prefix(WORKER).and_then(|index| index.parse().ok());
    let found = threads.iter().filter_map(|thread| Some((number(&thread.name)?, thread.id)));
    let found = found.collect::<Vec<_>>();
    if found.is_empty() {
        let what = format!("process {pid} has no thread called {WORKER}N");
        return Err(Error::unfit(what, "Measure a vnic daemon"));
    }
    Ok(found)
}

/// A thread that stays on one processor until this is dropped.
#[derive(Debug)]
#[must_use = "the thread may move again when this is dropped"]
pub struct Pinned {
    before: Vec<usize>,
}

impl Pinned {
    /// Keeps this thread on `processor`. Threads and programs that it starts meanwhile stay there, too.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn to(processor: usize) -> Result<Self> {
        let before = affinity(THIS)?;
        set_affinity(THIS, &[processor])?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What was allowed before is allowed again, unless the processors went away meanwhile.
        let _ = set_affinity(THIS, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processors(places: &[(usize, usize)]) -> Vec<Processor> {
        let numbered = places.iter().enumerate();
        numbered.map(|(number, &(core, node))| Processor { number, core, node }).collect()
    }

    #[test]
    fn the_worker_gets_another_core_of_the_same_node_if_there_is_one() {
        let worker = |places: &[(usize, usize)]| {
            let cores = Cores::among(&processors(places)).unwrap();
            (cores.worker, cores.shared)
        };
        assert_eq!(worker(&[(0, 0), (0, 0), (2, 1), (3, 0)]), (3, None));
        assert_eq!(worker(&[(0, 0), (0, 0), (2, 1)]), (2, Some(Shared::Nothing)));
        assert_eq!(worker(&[(0, 0), (0, 0)]), (1, Some(Shared::Core)));
        assert_eq!(worker(&[(0, 0)]), (0, Some(Shared::Processor)));
        assert_eq!(Cores::among(&[]), None);
    }

    #[test]
    fn a_bad_choice_is_told() {
        let two = Cores { client: 0, worker: 1, shared: None };
        assert_eq!(two.notes().len(), 1);
        assert_eq!(Cores { worker: 0, shared: Some(Shared::Processor), ..two }.notes().len(), 2);
    }

    #[test]
    fn a_pinned_thread_stays_where_it_is_told_and_is_free_afterwards() {
        let before = affinity(THIS).unwrap();
        let cores = Cores::choose().unwrap();
        {
            let _pinned = cores.worker().unwrap();
            assert_eq!(affinity(THIS).unwrap(), [cores.worker]);
        }
        assert_eq!(affinity(THIS).unwrap(), before);
    }

    #[test]
    fn workers_are_found_by_name() {
        std::thread::scope(|scope| {
            let (end, wait) = std::sync::mpsc::channel::<()>();
            let (started, ready) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new().name(format!("{WORKER}3"));
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
}
