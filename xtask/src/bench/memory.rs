// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench memory`: what it costs that memory is not pinned.

use std::path::Path;

use anyhow::{Context, Result};
use vnic_testbed::bench::Findings;
use vnic_testbed::bench::memory::{Effort, process, vm};
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::kernel::Series;
use vnic_testbed::provision::workspace::Workspace;

use super::Output;
use crate::tools;

pub(super) const MEMORY: &str = "\
Examples:
  cargo xtask bench memory --lane process --quick
  cargo xtask bench memory --lane process --check && echo all goals are met
  cargo xtask bench memory --lane vm --kernel 7.3
  cargo xtask bench memory --json figures.json

What is measured:
  process   two guests that are processes, on a real daemon: registering memory of 4 KiB to 64 GiB;
            a translation that hits or misses the IOTLB; the first 8 B WRITE to a page that is
            there, missing or swapped out; an invalidation with the device idle or busy; a large
            WRITE to fresh memory, faulted in at once or page by page. Needs nothing but cargo.
  vm        a guest of each kernel, with rxe, which pins, beside the vNIC: ibv_reg_mr of touched and
            untouched memory; the first 8 B WRITE to a page that is there, missing or swapped to zram
            or a disk; madvise, mprotect and munmap with no device open, an idle one, a busy one;
            fork of a process with many regions. Provisions the machine as `cargo xtask testbed` does.

How: every experiment runs several rounds, one after the other in each round, and what is compared is
compared within a round. So a busy machine makes times longer and leaves ratios nearly alone; the report
warns of one. Goals that were missed make the command fail with --check.";

/// Options of `bench memory`.
#[derive(clap::Args)]
pub struct Memory {
    /// Measure in these kinds of guests only
    #[arg(long, value_name = "LANE", value_delimiter = ',')]
    lane: Vec<Lane>,
    /// Guest kernels of the lane `vm`: 6.12, 7.3 [default: both]
    #[arg(long, value_name = "SERIES", value_delimiter = ',')]
    kernel: Vec<Series>,
    /// Fewer and shorter rounds, for a first look
    #[arg(long)]
    pub(super) quick: bool,
    /// Rounds of everything [default: 9, in a VM 5; with --quick 3 and 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Where to measure.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Lane {
    /// Guests that are processes
    Process,
    /// Virtual machines
    Vm,
}

impl Memory {
    fn effort(&self) -> Effort {
        let mut effort = if self.quick { Effort::QUICK } else { Effort::FULL };
        effort.rounds = self.rounds.map_or(effort.rounds, usize::from);
        effort
    }

    fn vm_effort(&self) -> vm::Effort {
        let mut effort = if self.quick { vm::Effort::QUICK } else { vm::Effort::FULL };
        effort.rounds = self.rounds.map_or(effort.rounds, usize::from);
        effort
    }

    fn kernels(&self) -> Vec<Series> {
        let wanted = |series: &Series| self.kernel.is_empty() || self.kernel.contains(series);
        Series::ALL.into_iter().filter(wanted).collect()
    }

    fn measures(&self, lane: Lane) -> bool {
        self.lane.is_empty() || self.lane.contains(&lane)
    }

    /// Measures with the daemon at `daemon`.
    pub(super) fn run(&self, daemon: &Path) -> Result<Findings> {
        let mut findings = Findings::default();
        if self.measures(Lane::Process) {
            findings.extend(process::run(daemon, self.effort())?);
        }
        if self.measures(Lane::Vm) {
            let provision = Provision::prepare(Workspace::at(&tools::root()))
                .context("cannot set the machine up for guests (`--lane process` needs none)")?;
            for series in self.kernels() {
                findings.extend(vm::run(&provision, series, daemon, self.vm_effort())?);
            }
        }
        Ok(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, tests::parse};

    fn memory(words: &[&str]) -> Result<Memory, clap::Error> {
        match parse(&[&["memory"], words].concat())?.bench {
            Some(Bench::Memory(memory)) => Ok(memory),
            _ => unreachable!("the subcommand was named"),
        }
    }

    #[test]
    fn everything_is_the_default() {
        let memory = memory(&[]).unwrap();
        assert!(memory.measures(Lane::Process) && memory.measures(Lane::Vm));
        assert!(!memory.output.check);
        assert_eq!((memory.effort(), memory.vm_effort()), (Effort::FULL, vm::Effort::FULL));
        assert_eq!(memory.kernels(), Series::ALL);
    }

    #[test]
    fn choices_are_taken() {
        let chosen =
            memory(&["--quick", "--rounds", "2", "--lane", "vm", "--kernel", "7.3"]).unwrap();
        assert_eq!(chosen.vm_effort(), vm::Effort { rounds: 2, ..vm::Effort::QUICK });
        assert_eq!(chosen.effort(), Effort { rounds: 2, ..Effort::QUICK });
        assert!(!chosen.measures(Lane::Process) && chosen.kernels() == [Series::Backports]);
        for words in [["--rounds", "0"], ["--lane", "moon"], ["--kernel", "5.10"]] {
            assert!(memory(&words).is_err(), "{words:?}");
        }
    }
}
