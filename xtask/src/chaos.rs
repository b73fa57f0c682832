// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask chaos`: registered memory that moves, swaps and goes, under traffic.

use crate::tools;
use anyhow::{Context, Result};
use std::io::Write;
use std::time::{Duration, Instant};
use vnic_testbed::chaos::{self, CASES, Case, Options, Wire, report};
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::kernel::Series;
use vnic_testbed::provision::workspace::Workspace;
use vnic_testbed::report::table::Style;

const ABOUT: &str = "\
Disturb registered memory in two guests under traffic, and look for wrong bytes.

Two guests on one vNIC daemon write, read, send and count in each other's memory, in both directions, \
over several queue pairs, with sizes and alignments that change. Nothing is pinned. Meanwhile each \
case does one thing to that memory that a kernel can do: throw it away, swap it, move it, merge it, \
split it, take its permissions, its node or its very module away. Programs know every byte that they \
must find, and compare it. A case passes only if the kernel's own counters show that the disturbance \
happened, and no byte was wrong, no completion lost, nothing pinned, no object left and no kernel \
complained.";

const EXAMPLES: &str = "\
Examples:
  cargo xtask chaos                              every case with both kernels, about half an hour
  cargo xtask chaos --list                       what the cases are
  cargo xtask chaos swap fork --kernel 7.3       `swap` is swap-zram and swap-disk
  cargo xtask chaos together --seconds 60        everything at once
  cargo xtask chaos fork swap --wire             between two daemons, as on two hosts
  cargo xtask chaos fork swap --wire=rxe         between two hosts with RDMA devices, much slower
  cargo xtask chaos overcommit                   a buffer four times the size of a guest's memory
  cargo xtask chaos numa --json | jq '.cases[] | [.kernel, .invalidations, .wrong_bytes]'

The report stays in target/chaos/report.json and report.md. When a case fails, so does the command \
in the end; what programs, kernels and daemon said is in target/chaos/logs/CASE-KERNEL. Free pages \
of the guests hold a pattern that is checked when they are used again (page_poison=1), so that a \
write into memory that was given back is a complaint of the kernel.";

/// What to run.
#[derive(clap::Args)]
#[command(about = "Disturb registered memory in two guests under traffic, and look for wrong bytes",
    long_about = ABOUT, after_help = EXAMPLES)]
pub struct Args {
    /// Cases, or the beginning of their names up to a dash; all if none is given
    #[arg(value_name = "CASE", value_parser = cases)]
    cases: Vec<Cases>,
    /// Guest kernel, 6.12 or 7.3; both if not given
    #[arg(long, value_name = "SERIES")]
    kernel: Option<Series>,
    /// How long each case has traffic; 20 if not given, 60 for `together`
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// Give each guest a daemon of its own, with a wire between them: tcp, or rxe, for which each guest is in a host
    /// that is a virtual machine, too
    #[arg(long, value_name = "KIND", num_args = 0..=1, require_equals = true,
        default_missing_value = "tcp")]
    wire: Option<Kind>,
    /// Show what the cases are, and end
    #[arg(long)]
    list: bool,
    /// Print the report as JSON in place of the table
    #[arg(long)]
    json: bool,
}

/// What carries a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Tcp,
    Rxe,
}

/// The cases that one word means.
type Cases = std::sync::Arc<[&'static Case]>;

fn cases(word: &str) -> Result<Cases, String> {
    Case::find(word).map(Into::into)
}

impl Args {
    /// In the order of the list, and each once.
    fn chosen(&self) -> Vec<&'static Case> {
        let wanted = |case: &&Case| {
            self.cases.is_empty()
                || self.cases.iter().any(|cases| cases.iter().any(|c| c.name == case.name))
        };
        CASES.iter().filter(wanted).collect()
    }

    fn series(&self) -> Vec<Series> {
        self.kernel.map_or(Series::ALL.to_vec(), |series| vec![series])
    }

    fn times(&self) -> (Duration, Duration) {
        let seconds = |usual| Duration::from_secs(self.seconds.unwrap_or(usual));
        (seconds(20), seconds(60))
    }
}

/// Provisions, builds, boots, disturbs and reports.
///
/// # Errors
/// When the guests' software cannot be built, or any case failed.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        return list(&args.chosen());
    }
    let since = Instant::now();
    let workspace = Workspace::at(&tools::root());
    let folder = workspace.target().join("chaos");
    let daemon = tools::build_daemon(&workspace)?;
    let provision = Provision::prepare(workspace)?;
    let (each, together) = args.times();
    let (cases, series) = (args.chosen(), args.series());
    let wire = match args.wire {
        None => Wire::None,
        Some(Kind::Tcp) => Wire::Tcp,
        Some(Kind::Rxe) => Wire::Rxe(tools::build_daemon_for_hosts()?),
    };
    let options = Options { cases, series, each, together, daemon, wire };
    let outcome = chaos::run(&provision, &options)?;

    let logs = folder.join("logs");
    // Those of an earlier failure would only mislead.
    if logs.exists() {
        std::fs::remove_dir_all(&logs)
            .with_context(|| format!("cannot remove {}", logs.display()))?;
    }
    outcome.write_logs(&logs)?;
    std::fs::create_dir_all(&folder)?;
    let json = report::json(&outcome.results)?;
    std::fs::write(folder.join("report.json"), &json)?;
    let markdown =
        format!("{}\n\n{}\n", report::table(&outcome.results, Style::Markdown), report::LEGEND);
    std::fs::write(folder.join("report.md"), markdown)?;
    let text = if args.json {
        json
    } else {
        format!(
            "{}\n\n{}\n{:.0} s in all; the report is in {}\n",
            report::table(&outcome.results, Style::Terminal),
            report::LEGEND,
            since.elapsed().as_secs_f64(),
            folder.join("report.md").display()
        )
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the report")?;
    anyhow::ensure!(outcome.is_well(), "a case failed; the logs are in {}", logs.display());
    Ok(())
}

fn list(cases: &[&Case]) -> Result<()> {
    let width = cases.iter().map(|case| case.name.len()).max().unwrap_or_default();
    let lines = cases.iter().map(|case| format!("{:width$}  {}\n", case.name, case.about));
    let text = lines.collect::<String>();
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the list")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Result<Args, clap::Error> {
        Ok(Command::try_parse_from(["chaos"].iter().chain(words))?.args)
    }

    #[test]
    fn everything_with_both_kernels_is_the_default() {
        let args = args(&[]).unwrap();
        assert_eq!(args.chosen().len(), CASES.len());
        assert_eq!(args.series(), Series::ALL);
        assert_eq!(args.times(), (Duration::from_secs(20), Duration::from_secs(60)));
    }

    #[test]
    fn cases_are_chosen_by_name_and_family_and_run_in_the_order_of_the_list() {
        let args = args(&["fork", "swap", "fork", "--kernel", "7.3", "--seconds", "5"]).unwrap();
        let names = args.chosen().iter().map(|case| case.name).collect::<Vec<_>>();
        assert_eq!(names, ["swap-zram", "swap-disk", "fork"]);
        assert_eq!(args.series(), [Series::Backports]);
        assert_eq!(args.times().1, Duration::from_secs(5));
    }

    #[test]
    fn a_wire_is_of_tcp_unless_it_is_said() {
        assert_eq!(args(&[]).unwrap().wire, None);
        assert_eq!(args(&["--wire", "fork"]).unwrap().wire, Some(Kind::Tcp));
        assert_eq!(args(&["--wire=rxe", "fork"]).unwrap().wire, Some(Kind::Rxe));
        assert!(args(&["--wire=carrier-pigeon"]).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [&["nothing"][..], &["--kernel", "5.10"], &["--seconds", "0"]] {
            assert!(args(words).is_err(), "{words:?}");
        }
    }
}
