// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which processors this process may use, and which of them share a core or a NUMA node.

use std::{collections::BTreeSet, fs, path::Path};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Doing, Error, Result};

/// One processor as the kernel counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// Its number.
    pub number: usize,
    /// The lowest number among those that share its core.
    pub core: usize,
    /// Its NUMA node.
    pub node: usize,
}

/// The processors that this process may use, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processors(pub Vec<Processor>);

impl Processors {
    /// Asks the kernel. A processor of which it does not tell more is a core of its own, on node 0.
    pub fn look() -> Self {
        let allowed = affinity(0).unwrap_or_default();
        Self::read(Path::new("/sys/devices/system/cpu"), &allowed)
    }

    fn read(folder: &Path, allowed: &[usize]) -> Self {
        let processor = |&number: &usize| {
            let folder = folder.join(format!("cpu{number}"));
            let siblings = fs::read_to_string(folder.join("topology/thread_siblings_list"));
            let core = list(&siblings.unwrap_or_default()).first().copied().unwrap_or(number);
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let nodes = entries
                .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok());
            Processor { number, core, node: nodes.min().unwrap_or(0) }
        };
        Self(allowed.iter().map(processor).collect())
    }

    /// Number of cores that they are on.
    pub fn cores(&self) -> usize {
        self.0.iter().map(|processor| processor.core).collect::<BTreeSet<_>>().len()
    }

    /// NUMA nodes that they are on.
    pub fn nodes(&self) -> BTreeSet<usize> {
        self.0.iter().map(|processor| processor.node).collect()
    }
}

/// Reads a list of the kernel's: `0-3,8`. What is no number is left out.
pub fn list(text: &str) -> Vec<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Writes it.
pub fn list_text(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    ranges.collect::<Vec<_>>().join(",")
}

/// The processors that a thread may use; 0 is the thread that asks.
///
/// # Errors
/// When the thread is gone.
pub fn affinity(thread: u32) -> Result<Vec<usize>> {
    let set = sched_getaffinity(id(thread)).doing(|| format!("ask where thread {thread} runs"))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&number| set.is_set(number)).collect())
}

/// Lets a thread use these processors and no others.
///
/// # Errors
/// When the thread is gone, or may use none of them.
pub fn set_affinity(thread: u32, processors: &[usize]) -> Result<()> {
    if let Some(number) = processors.iter().find(|&&number| number >= CpuSet::MAX_CPU) {
        let most = CpuSet::MAX_CPU;
        let what = format!("processor {number} is beyond the {most} that can be chosen");
        return Err(Error::unfit(what, "Leave the pinning out with `--pin never`."));
    }
    let mut set = CpuSet::new();
    processors.iter().for_each(|&number| set.set(number));
    sched_setaffinity(id(thread), &set)
        .doing(|| format!("put thread {thread} on the processors {}", list_text(processors)))
}

fn id(thread: u32) -> Option<rustix::thread::Pid> {
    i32::try_from(thread).ok().and_then(rustix::thread::Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, numbers) in
            [("0", vec![0]), ("0-3,8\n", vec![0, 1, 2, 3, 8]), ("1,3", vec![1, 3]), ("", vec![])]
        {
            assert_eq!(list(text), numbers, "{text}");
            assert_eq!(list_text(&numbers), text.trim());
        }
    }

    #[test]
    fn siblings_and_nodes_are_read() {
        let folder = tempfile::tempdir().unwrap();
        for (number, siblings, node) in [(0, "0,2", 0), (1, "1,3", 1), (2, "0,2", 0)] {
            let cpu = folder.path().join(format!("cpu{number}"));
            fs::create_dir_all(cpu.join("topology")).unwrap();
            fs::create_dir(cpu.join(format!("node{node}"))).unwrap();
            fs::write(cpu.join("topology/thread_siblings_list"), siblings).unwrap();
        }
        // Nothing is told of the last.
        let found = Processors::read(folder.path(), &[0, 1, 2, 5]);
        let processor = |number, core, node| Processor { number, core, node };
        let expected =
            [processor(0, 0, 0), processor(1, 1, 1), processor(2, 0, 0), processor(5, 5, 0)];
        assert_eq!(found.0, expected);
        assert_eq!((found.cores(), found.nodes().len()), (3, 2));
    }

    #[test]
    fn a_thread_stays_where_it_is_put() {
        // In a thread of its own, for a thread keeps its processors.
        let thread = std::thread::spawn(|| {
            let before = affinity(0).unwrap();
            let last = *before.last().unwrap();
            set_affinity(0, &[last]).unwrap();
            assert_eq!(affinity(0).unwrap(), [last]);
            assert!(set_affinity(0, &[CpuSet::MAX_CPU]).is_err());
        });
        thread.join().unwrap();
        assert!(!Processors::look().0.is_empty());
    }
}
