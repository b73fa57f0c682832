// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask testbed`: the comparison of vNIC, rxe and TCP between two guests.

use crate::tools;
use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vnic_testbed::measure::{Program, Sizes, sizes};
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::kernel::Series;
use vnic_testbed::provision::workspace::Workspace;
use vnic_testbed::report::Report;
use vnic_testbed::report::table::{self, LEGEND, Style};
use vnic_testbed::suite::{self, Options};

const EXAMPLES: &str = "\
Examples:
  cargo xtask testbed
  cargo xtask testbed --quick --only write_lat,write_bw
  cargo xtask testbed --kernel 7.3 --sizes 8,4K,1M --iterations 1000
  cargo xtask testbed --json | jq '.measurements[] | select(.transport == \"vnic\")'

Both guests have a vNIC of the same daemon and a virtio network card. Every program runs over the
vNIC, then over rxe on the network card; TCP runs on the network card. The first run provisions the
machine, which takes minutes; later runs reuse what it built. The report stays in
target/testbed/report.json and report.md. When a program fails, the command fails, shows the
program's output and the logs of guests and daemon, and leaves the whole logs in
target/testbed/logs.";

/// Time of one measurement, and of one in a full run, where more iterations steady the tail.
const GOALS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// What to run.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Guest kernel: 6.12 or 7.3
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: Series,
    /// Run these programs only, e.g. write_lat,rc_pingpong
    #[arg(long, value_name = "PROGRAM", value_delimiter = ',')]
    only: Vec<Program>,
    /// Measure these message sizes only, e.g. 8,4K,1M
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = sizes::parse)]
    sizes: Vec<u64>,
    /// Measure every power of two, and longer each
    #[arg(long, conflicts_with_all = ["sizes", "quick"])]
    full: bool,
    /// Measure three sizes only
    #[arg(long, conflicts_with = "sizes")]
    quick: bool,
    /// Iterations of each measurement, at least 5; by default as many as fit into its time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(5..=10_000_000))]
    iterations: Option<u64>,
    /// Leave rxe out
    #[arg(long)]
    no_rxe: bool,
    /// Leave TCP out
    #[arg(long)]
    no_tcp: bool,
    /// Print the report as JSON in place of the table
    #[arg(long)]
    json: bool,
}

impl Args {
    fn options(&self, daemon: PathBuf) -> Options {
        let programs = if self.only.is_empty() {
            Program::ALL.to_vec()
        } else {
            // In the suite's own order, and each once.
            Program::ALL.into_iter().filter(|program| self.only.contains(program)).collect()
        };
        let sizes = match (self.sizes.is_empty(), self.full, self.quick) {
            (false, ..) => Sizes::chosen(self.sizes.clone()),
            (true, true, _) => Sizes::full(),
            (true, false, true) => Sizes::few(),
            (true, false, false) => Sizes::steps(),
        };
        Options {
            series: self.kernel,
            programs,
            sizes,
            iterations: self.iterations,
            sweep: self.sizes.is_empty() && !self.full && !self.quick,
            goal: GOALS[usize::from(self.full)],
            rxe: !self.no_rxe,
            tcp: !self.no_tcp,
            daemon,
        }
    }
}

/// Provisions, builds, boots, measures and reports.
///
/// # Errors
/// When any of it fails, a program in a guest included.
pub fn run(args: Args) -> Result<()> {
    let since = Instant::now();
    let workspace = Workspace::at(&tools::root());
    let folder = workspace.target().join("testbed");
    let daemon = tools::build_daemon(&workspace)?;
    let provision = Provision::prepare(workspace)?;
    let outcome = suite::run(&provision, &args.options(daemon), since)?;

    let report = &outcome.report;
    report.write(&folder)?;
    let logs = folder.join("logs");
    // Those of an earlier failure would only mislead.
    if logs.exists() {
        std::fs::remove_dir_all(&logs)
            .with_context(|| format!("cannot remove {}", logs.display()))?;
    }
    let text = if args.json { report.json()? } else { shown(report, &folder) };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the report")?;
    let Some(failure) = &outcome.failure else { return Ok(()) };
    failure.write_logs(&logs)?;
    anyhow::bail!("{failure}\nThe whole logs are in {}.", logs.display())
}

fn shown(report: &Report, folder: &Path) -> String {
    let environment = &report.environment;
    let mut text = format!(
        "\nTwo guests of Linux {} under {} ({}) on {}, {} cores\n",
        environment.guest_kernel,
        environment.accelerator,
        environment.accelerator_reason,
        environment.cpu,
        environment.cores,
    );
    for check in &report.checks {
        text += &format!("{check}\n");
    }
    let table = table::render(report, Style::Terminal);
    if !table.is_empty() {
        text += &format!("\n{table}\n\n{LEGEND}\n");
    }
    for note in &report.notes {
        text += &format!("Note: {note}\n");
    }
    text + &format!(
        "{:.0} s in all; the report is in {}\n",
        report.seconds,
        folder.join("report.md").display()
    )
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

    fn options(words: &[&str]) -> Result<Options, clap::Error> {
        let words = ["testbed"].iter().chain(words);
        Ok(Command::try_parse_from(words)?.args.options("vnic".into()))
    }

    #[test]
    fn everything_is_the_default() {
        let options = options(&[]).unwrap();
        assert_eq!(options.programs, Program::ALL);
        assert_eq!(options.sizes, Sizes::steps());
        assert!(options.sweep && options.rxe && options.tcp && options.iterations.is_none());
    }

    #[test]
    fn choices_are_taken() {
        let options = options(&[
            "--only",
            "write_bw,ib_write_lat",
            "--sizes",
            "1M,2",
            "--no-rxe",
            "--kernel",
            "7.3",
        ]);
        let options = options.unwrap();
        assert_eq!(options.programs, [Program::WriteLat, Program::WriteBw]);
        assert_eq!(options.sizes.latency, [2, 1 << 20]);
        assert!(!options.sweep && !options.rxe && options.series == Series::Backports);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in
            [["--only", "x"], ["--sizes", "0"], ["--kernel", "5.10"], ["--iterations", "4"]]
        {
            assert!(options(&words).is_err(), "{words:?}");
        }
        assert!(options(&["--full", "--quick"]).is_err());
    }
}
