// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask testbed`: the comparison of vNIC, rxe and TCP between two guests.

use crate::{compare, fitness, tools, wire};
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vnic_testbed::bench::{Machine, table::verdict};
use vnic_testbed::compare::{entry, table as changes};
use vnic_testbed::measure::{GOALS, Program, Sizes, sizes};
use vnic_testbed::page::gather;
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::kernel::Series;
use vnic_testbed::provision::workspace::Workspace;
use vnic_testbed::report::table::{self, LEGEND, Style};
use vnic_testbed::report::{Report, cpu};
use vnic_testbed::suite::{self, Options};
use vnic_testbed::topology::Pin;

const EXAMPLES: &str = "\
Examples:
  cargo xtask testbed
  cargo xtask testbed --quick --only write_lat,write_bw
  cargo xtask testbed --kernel 7.3 --sizes 8,4K,1M --iterations 1000
  cargo xtask testbed --check --strict           # goals and a fit machine, or an error
  cargo xtask testbed --pin always --huge-pages  # as on a machine with many cores
  cargo xtask testbed --rounds 9 --compare target/testbed/report.json  # what changed since the last one
  cargo xtask testbed --wire rxe                 # guests of two hosts against the hosts' own verbs
  cargo xtask testbed --json | jq '.measurements[] | select(.transport == \"vnic\")'

Both guests have a vNIC of the same daemon and a virtio network card. Every program runs over the
vNIC, then over rxe on the network card; TCP runs on the network card. The first run provisions the
machine, which takes minutes; later runs reuse what it built. The report stays in
target/testbed: report.html for a browser, report.md, and report.json, which --compare takes later.
When a program fails, the command fails, shows the program's output and the logs of guests and
daemon, and leaves the whole logs in target/testbed/logs.

With --wire, what virtualisation costs against bare-metal verbs: two machines of Linux 7.3 play hosts
with rxe, and one program measures WRITE, READ and SEND of 2 B to 1 MiB, connections, registrations
and first touches between the hosts' own devices and between guests of their daemons, in turns. The
answer is a multiple with its confidence for each operation; goals are a median latency of at most
1.1 times the bare one, and a bandwidth of at least 0.95 times. `--wire mlx5_0`, or any RDMA device of
this machine, measures with that, both ends being here. The report is target/testbed/wire.json, and a
part of report.html.

Goals: the vNIC against rxe, in the same guests and the same run: ib_write_lat of 8 B (median, 10 times
lower), ib_write_bw of 64 KiB (30 times higher), ib_send_bw of 4 KiB and the message rate of 64 B (10
times). What they compare is measured in several rounds, and each ratio is that of the median round.

Processor time: of each measurement, in both guests (their own account) and on the host (threads of
QEMU and of the daemon), for each operation.

Fitness: the command warns of a machine with one core, changing frequencies, stolen time, several
NUMA nodes, memory that is short, other programs that run, and of a virtual machine. Processors' and
workers' threads get cores of their own where there are enough (--pin). Huge pages have to be set
aside before: `sysctl vm.nr_hugepages=1024`.";

/// Times of one measurement, and of one that a goal is about.
struct Times {
    each: Duration,
    steady: Duration,
}

const QUICK: Times = Times { each: Duration::from_millis(200), steady: Duration::from_millis(500) };
const USUAL: Times = Times { each: Duration::from_millis(250), steady: Duration::from_secs(1) };
/// More iterations steady the tail.
const FULL: Times = Times { each: Duration::from_secs(1), steady: Duration::from_secs(2) };

/// Rounds of what goals are about, unless in a quick run.
const ROUNDS: u8 = 3;

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
    pub(crate) sizes: Vec<u64>,
    /// Measure every power of two, and longer each
    #[arg(long, conflicts_with_all = ["sizes", "quick"])]
    full: bool,
    /// Measure few sizes only, and shorter each
    #[arg(long, conflicts_with = "sizes")]
    pub(crate) quick: bool,
    /// Iterations of each measurement, at least 5; by default as many as fit into its time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(5..=10_000_000))]
    iterations: Option<u64>,
    /// Measure everything so many times [default: what goals are about 3 times, with --quick once; the
    /// rest once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) rounds: Option<u8>,
    /// Measure guests of two hosts against bare verbs instead: over `rxe` between two virtual machines, or
    /// an RDMA device of this machine
    #[arg(long, value_name = "DEVICE", conflicts_with_all = [
        "kernel", "only", "full", "iterations", "no_rxe", "no_tcp", "pin", "huge_pages",
    ])]
    wire: Option<String>,
    /// Leave rxe out
    #[arg(long)]
    no_rxe: bool,
    /// Leave TCP out
    #[arg(long)]
    no_tcp: bool,
    /// Give guests' processors and the daemon's workers processors of their own: `auto` where there are
    /// cores for all of them, `always`, `never`
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pin: Pin,
    /// Make the guests' memory of huge pages, which have to be set aside
    #[arg(long)]
    huge_pages: bool,
    /// Fail if a goal is missed
    #[arg(long, conflicts_with = "no_rxe")]
    pub(crate) check: bool,
    /// Fail if the machine is not fit to measure on, before or after the run
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print the report as JSON in place of the table
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) compare: compare::Against,
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
        let times = match (self.full, self.quick) {
            (true, _) => FULL,
            (_, true) => QUICK,
            _ => USUAL,
        };
        let rounds = self.rounds.unwrap_or(if self.quick { 1 } else { ROUNDS });
        Options {
            series: self.kernel,
            programs,
            sizes,
            iterations: self.iterations,
            goal: times.each,
            steady: times.steady,
            rounds: rounds.into(),
            repeat_all: self.rounds.is_some(),
            rxe: !self.no_rxe,
            tcp: !self.no_tcp,
            pin: self.pin,
            huge_pages: self.huge_pages,
            daemon,
        }
    }
}

/// Provisions, builds, boots, measures and reports.
///
/// # Errors
/// When any of it fails, a program in a guest included; with `--check` also when a goal is missed, with
/// `--strict` when the machine is not fit, and with `--fail-above` when a figure became worse.
pub fn run(args: Args) -> Result<()> {
    if let Some(device) = &args.wire {
        return wire::run(device, &args);
    }
    let since = Instant::now();
    let old = args.compare.old()?;
    if let Some(old) = &old {
        old.check(entry::TESTBED)?;
    }
    let workspace = Workspace::at(&tools::root());
    let folder = workspace.target().join("testbed");
    let daemon = tools::build_daemon(&workspace)?;
    let options = args.options(daemon);
    let decided = GOALS.iter().filter(|goal| options.decides(goal)).count();
    ensure!(
        !args.check || decided > 0,
        "--check has nothing to check: none of the goals is about these programs and sizes"
    );
    let provision = Provision::prepare(workspace)?;
    let machine = Machine::look();
    let warnings = options.warnings(&machine);
    fitness::before(&warnings, args.strict)?;
    let mut outcome = suite::run(&provision, &options, &machine, since)?;

    outcome.report.command = Some(tools::command_line());
    let report = &outcome.report;
    let comparison = old.as_ref().map(|old| old.with(entry::of_testbed(report)));
    gather::keep_testbed(&folder, report, comparison.as_ref())?;
    let logs = folder.join("logs");
    // Those of an earlier failure would only mislead.
    if logs.exists() {
        std::fs::remove_dir_all(&logs)
            .with_context(|| format!("cannot remove {}", logs.display()))?;
    }
    let changes = comparison.as_ref().map(changes::render).unwrap_or_default();
    let text = if args.json {
        eprint!("{changes}");
        report.json()?
    } else {
        shown(report, &folder) + &changes
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the report")?;
    if let Some(failure) = &outcome.failure {
        failure.write_logs(&logs)?;
        anyhow::bail!("{failure}\nThe whole logs are in {}.", logs.display());
    }
    let missed = report.missed().count();
    ensure!(!args.check || missed == 0, "{missed} of {decided} goals are missed");
    // Those from before the run come first, and have been answered for.
    fitness::after(report.warnings.get(warnings.len()..).unwrap_or_default(), args.strict)?;
    old.zip(comparison).map_or(Ok(()), |(old, comparison)| old.judge(&comparison))
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
    if !report.verdicts.is_empty() {
        text += "\nGoals\n";
    }
    for goal in &report.verdicts {
        text += &format!("  {}\n", verdict(goal));
    }
    let times = cpu::render(report, Style::Terminal);
    if !times.is_empty() {
        text += &format!("\n{}\n{times}\n\n{}\n", cpu::HEADING, cpu::LEGEND);
    }
    for warning in &report.warnings {
        text += &format!("Warning: {warning}\n");
    }
    for note in &report.notes {
        text += &format!("Note: {note}\n");
    }
    text + &format!(
        "{:.0} s in all; the report is in {}\n",
        report.seconds,
        folder.join("report.html").display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use vnic_testbed::bench::wire::Effort;

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
        assert!(options.rxe && options.tcp && options.iterations.is_none());
        assert_eq!((options.rounds, options.repeat_all), (3, false));
        assert_eq!((options.pin, options.huge_pages), (Pin::Auto, false));
        assert!(GOALS.iter().all(|goal| options.decides(goal)));
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
        assert!(!options.rxe && options.series == Series::Backports);
        assert!(!GOALS.iter().any(|goal| options.decides(goal)));
        let quick = self::options(&["--quick", "--pin", "always", "--huge-pages"]).unwrap();
        assert_eq!((quick.rounds, quick.pin, quick.huge_pages), (1, Pin::Always, true));
        assert!(quick.steady < Duration::from_secs(1));
        let often = self::options(&["--quick", "--rounds", "5"]).unwrap();
        assert_eq!((often.rounds, often.repeat_all), (5, true));
    }

    #[test]
    fn a_wire_is_measured_instead() {
        let args = |words: &[&str]| {
            let words = ["testbed", "--wire", "rxe"].iter().chain(words);
            Command::try_parse_from(words).map(|command| command.args)
        };
        let usual = args(&[]).unwrap();
        assert_eq!(usual.wire.as_deref(), Some("rxe"));
        assert_eq!(wire::effort(&usual), Effort::full());
        let chosen = wire::effort(&args(&["--sizes", "4K,8,8", "--rounds", "9"]).unwrap());
        assert_eq!((chosen.plan.sizes, chosen.rounds), (vec![8, 4096], 9));
        assert_eq!(wire::effort(&args(&["--quick"]).unwrap()), Effort::quick());
        for words in [["--only", "write_lat"], ["--kernel", "7.3"], ["--pin", "always"]] {
            assert!(args(&words).is_err(), "{words:?}");
        }
        assert!(args(&["--no-rxe"]).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            ["--only", "x"],
            ["--sizes", "0"],
            ["--kernel", "5.10"],
            ["--iterations", "4"],
            ["--rounds", "0"],
            ["--pin", "sometimes"],
            ["--check", "--no-rxe"],
        ] {
            assert!(options(&words).is_err(), "{words:?}");
        }
        assert!(options(&["--full", "--quick"]).is_err());
    }
}
