// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench path`, or `cargo xtask bench` alone: the data path.

use std::path::Path;

use anyhow::Result;
use vnic_testbed::bench::Findings;
use vnic_testbed::bench::path::baseline::PACKAGES;
use vnic_testbed::bench::path::{self, Effort, Plan, Subject};
use vnic_testbed::provision;

use super::Output;

pub(super) const PATH: &str = "\
Examples:
  cargo xtask bench                          # everything, in some minutes
  cargo xtask bench --quick                  # a first look
  cargo xtask bench --only latency,rate      # some of it
  cargo xtask bench --check && echo all goals are met
  cargo xtask bench --json - | jq '.verdicts[] | select(.met | not)'

What is measured, with the names for --only:
  latency       8 B WRITE, SEND, READ and FETCH_ADD beside a cache line's round trip between the cores
  distribution  WRITE, SEND and READ of 2 B to 1 MiB: p50, p99, p99.9; all times of some sizes
  rate          64 B WRITEs per second, over 1 to 256 queue pairs
  bandwidth     WRITE and READ of 4 KiB to 64 MiB beside memcpy over the same buffers
  crowd         8 B WRITE among 100 and 10,000 queue pairs, and 64 ports, that do nothing
  neighbour     8 B WRITE beside a stream of 1 GiB of another port
  wake          8 B WRITE that finds the device asleep, beside eventfds
  idle          processor time of a daemon with 64 ports and 10,000 queue pairs that do nothing
  footprint     memory of the daemon for each idle QP, MR and CQ
  others        TCP, UNIX sockets, a bare shared-memory ring, UCX and libfabric, beside the vNIC. The
                last two by their own programs, from Debian's ucx-utils and libfabric-bin, which are
                installed if this runs as root on Debian; else their rows say what is missing.

How: one thread plays the programs of both guests and posts and polls as the provider does; the daemon
is a real one. The client thread and the device's first worker stay on a core each; run it on a machine
that does nothing else. Every experiment runs several rounds, one after the other in each round; what is
compared is measured in the same round, so that a busy machine makes times longer and leaves ratios
nearly alone. The report is always in target/testbed/bench.json. Goals that were missed make the command
fail with --check.";

/// Options of `bench path`.
#[derive(clap::Args)]
pub struct DataPath {
    /// Measure only these
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    only: Vec<Subject>,
    /// Workers of the daemon: threads that move data
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Fewer and shorter rounds, for a first look
    #[arg(long)]
    pub(super) quick: bool,
    /// Rounds of everything [default: 9; with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl DataPath {
    fn plan(&self) -> Plan {
        let mut effort = if self.quick { Effort::QUICK } else { Effort::FULL };
        effort.rounds = self.rounds.map_or(effort.rounds, usize::from);
        Plan { effort, only: self.only.clone(), workers: self.workers }
    }

    /// Measures with the daemon at `daemon`.
    pub(super) fn run(&self, daemon: &Path) -> Result<Findings> {
        let plan = self.plan();
        if plan.has(Subject::Others)
            && let Err(error) = provision::install(&PACKAGES)
        {
            eprintln!("warning: something to compare with will be missing: {error}");
        }
        Ok(path::run(daemon, &plan)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, tests::parse};

    #[test]
    fn the_data_path_is_the_default() {
        let args = parse(&[]).unwrap();
        assert!(args.bench.is_none());
        let plan = args.path.plan();
        assert_eq!((plan.effort, plan.workers, plan.only.len()), (Effort::FULL, 1, 0));
    }

    #[test]
    fn choices_are_taken_with_and_without_the_name() {
        let words = ["--quick", "--rounds", "2", "--only", "rate,latency", "--workers", "2"];
        let named = match parse(&[&["path"], &words[..]].concat()).unwrap().bench {
            Some(Bench::Path(path)) => path.plan(),
            _ => unreachable!("the subcommand was named"),
        };
        for plan in [named, parse(&words).unwrap().path.plan()] {
            assert_eq!(plan.effort, Effort { rounds: 2, ..Effort::QUICK });
            assert_eq!((plan.only, plan.workers), (vec![Subject::Rate, Subject::Latency], 2));
        }
        for words in [["--only", "weather"], ["--workers", "0"], ["--quick", "memory"]] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }
}
