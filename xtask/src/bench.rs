// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: what single operations of the device cost.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use vnic_testbed::bench::memory::{Effort, process, vm};
use vnic_testbed::bench::{Findings, Machine, Report, table};
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::kernel::Series;
use vnic_testbed::provision::workspace::Workspace;

use crate::tools;

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench memory                 # everything
  cargo xtask bench memory --quick         # a first look
  cargo xtask bench memory --json - | jq '.verdicts[] | select(.met | not)'

Each bench has its own --help.";

const MEMORY: &str = "\
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

/// What to measure.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// Registering, translating, faulting in and taking back memory that nobody pins
    #[command(after_help = MEMORY)]
    Memory(Memory),
}

/// Options of `bench memory`.
#[derive(clap::Args)]
struct Memory {
    /// Measure in these kinds of guests only
    #[arg(long, value_name = "LANE", value_delimiter = ',')]
    lane: Vec<Lane>,
    /// Guest kernels of the lane `vm`: 6.12, 7.3 [default: both]
    #[arg(long, value_name = "SERIES", value_delimiter = ',')]
    kernel: Vec<Series>,
    /// Fewer and shorter rounds, for a first look
    #[arg(long)]
    quick: bool,
    /// Rounds of everything [default: 9, in a VM 5; with --quick 3 and 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Also write the report as JSON to a file; `-` prints it in place of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the report to a file in Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Fail if a goal is missed
    #[arg(long)]
    check: bool,
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
}

/// Builds what is needed, measures and reports.
///
/// # Errors
/// When any of it fails; with `--check`, also when a goal is missed.
pub fn run(args: &Args) -> Result<()> {
    let Bench::Memory(memory) = &args.bench;
    if cfg!(debug_assertions) {
        return again_optimised();
    }
    let since = Instant::now();
    let daemon = build_daemon()?;
    let machine = Machine::look();
    for warning in machine.warnings() {
        eprintln!("warning: {warning}");
    }
    let mut findings = Findings::default();
    if memory.measures(Lane::Process) {
        findings.extend(process::run(&daemon, memory.effort())?);
    }
    if memory.measures(Lane::Vm) {
        let provision = Provision::prepare(Workspace::at(&tools::root()))
            .context("cannot set the machine up for guests (`--lane process` needs none)")?;
        for series in memory.kernels() {
            findings.extend(vm::run(&provision, series, &daemon, memory.vm_effort())?);
        }
    }
    findings.notes.extend(machine.warnings());
    let mut report = Report::new("memory", memory.quick, machine, findings);
    report.seconds = since.elapsed().as_secs_f64();
    if let Some(file) = &memory.markdown {
        let text = table::render(&report, table::Style::Markdown);
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    tell(&report, memory.json.as_deref())?;
    let missed = report.missed().count();
    ensure!(!memory.check || missed == 0, "{missed} goals are missed");
    Ok(())
}

/// Part of what is measured runs in this program: it has to be built as a daemon is.
fn again_optimised() -> Result<()> {
    let mut command = tools::cargo(&["run", "--quiet", "--release", "--package", "xtask", "--"]);
    // Paths are the caller's, and cargo runs programs where it is itself.
    command.current_dir(std::env::current_dir().context("there is no current folder")?);
    command.arg("bench").args(std::env::args_os().skip(2));
    // The report and errors have been told already.
    match command.status().context("cannot run cargo")?.code() {
        Some(0) => Ok(()),
        Some(code) => std::process::exit(code),
        None => bail!("the bench was killed"),
    }
}

fn build_daemon() -> Result<PathBuf> {
    tools::run(tools::cargo(&["build", "--release", "--package", "vnic", "--bin", "vnic"]))?;
    let program = Workspace::at(&tools::root()).target().join("release/vnic");
    ensure!(program.exists(), "cargo has left no {}", program.display());
    Ok(program)
}

fn tell(report: &Report, json: Option<&Path>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(file) = json {
        let text = report.json()?;
        if file == Path::new("-") {
            return out.write_all(text.as_bytes()).context("cannot print the report");
        }
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let table = table::render(report, table::Style::Terminal);
    let text = format!("\n{}\n\n{table}\n{:.0} s in all\n", report.machine.line(), report.seconds);
    out.write_all(text.as_bytes()).context("cannot print the report")
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

    fn memory(words: &[&str]) -> Result<Memory, clap::Error> {
        let words = ["bench", "memory"].iter().chain(words);
        let Bench::Memory(memory) = Command::try_parse_from(words)?.args.bench;
        Ok(memory)
    }

    #[test]
    fn everything_is_the_default() {
        let memory = memory(&[]).unwrap();
        assert!(memory.measures(Lane::Process) && memory.measures(Lane::Vm) && !memory.check);
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
