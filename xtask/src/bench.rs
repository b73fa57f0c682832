// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: what the device costs.

mod memory;
mod path;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use vnic_testbed::bench::{Machine, Report, table};
use vnic_testbed::compare::{entry, table as changes};
use vnic_testbed::host::Watch;
use vnic_testbed::page::gather;
use vnic_testbed::provision::workspace::Workspace;
use vnic_testbed::report::environment;

use crate::{compare, fitness, tools};

/// What to measure.
#[derive(clap::Args)]
#[command(after_help = path::PATH, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    bench: Option<Bench>,
    #[command(flatten)]
    path: path::DataPath,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// What an operation costs from queue to queue, beside its limits; the default
    #[command(after_help = path::PATH)]
    Path(path::DataPath),
    /// Registering, translating, faulting in and taking back memory that nobody pins
    #[command(after_help = memory::MEMORY)]
    Memory(memory::Memory),
    /// Say what changed, beyond noise, from one run to another, without measuring
    Compare(compare::Two),
}

/// What becomes of a report.
#[derive(clap::Args)]
struct Output {
    /// Also write the report as JSON to a file; `-` prints it in place of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the report to a file in Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Fail if a goal is missed
    #[arg(long)]
    check: bool,
    /// Fail if the machine is not fit to measure on, before or after the run
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    compare: compare::Against,
}

/// Builds what is needed, measures and reports.
///
/// # Errors
/// When any of it fails; with `--check`, also when a goal is missed, with `--strict` when the machine is not
/// fit, and with `--fail-above` when a figure became worse.
pub fn run(args: &Args) -> Result<()> {
    let (name, output) = match &args.bench {
        Some(Bench::Compare(two)) => return compare::run(two),
        Some(Bench::Memory(memory)) => ("memory", &memory.output),
        Some(Bench::Path(path)) => ("path", &path.output),
        None => ("path", &args.path.output),
    };
    let old = output.compare.old()?;
    if let Some(old) = &old {
        old.check(name)?;
    }
    if cfg!(debug_assertions) {
        return again_optimised();
    }
    let since = Instant::now();
    let daemon = build_daemon()?;
    let machine = Machine::look();
    fitness::before(&machine.warnings(), output.strict)?;
    let watch = Watch::begin();
    let (quick, mut findings) = match &args.bench {
        Some(Bench::Memory(memory)) => (memory.quick, memory.run(&daemon)?),
        Some(Bench::Path(path)) => (path.quick, path.run(&daemon)?),
        _ => (args.path.quick, args.path.run(&daemon)?),
    };
    let over = watch.end();
    findings.notes.extend(machine.warnings());
    findings.notes.extend(over.warnings());
    findings.notes.push(over.note());
    let mut report = Report::new(name, quick, machine, findings);
    report.seconds = since.elapsed().as_secs_f64();
    report.warnings = [report.machine.warnings(), over.warnings()].concat();
    report.command = Some(tools::command_line());
    report.commit = environment::commit_of(&tools::root());
    finish(&report, output, old.as_ref())?;
    fitness::after(&over.warnings(), output.strict)
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

/// Writes the report wherever it is wanted, and judges it.
fn finish(report: &Report, output: &Output, old: Option<&compare::Old>) -> Result<()> {
    let write = |file: &Path, text: &str| {
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    let json = report.json()?;
    let comparison = old.map(|old| old.with(entry::of_bench(report)));
    let folder = Workspace::at(&tools::root()).target().join("testbed");
    let page = gather::keep_bench(&folder, report, comparison.as_ref())?;
    if let Some(file) = &output.markdown {
        write(file, &table::render(report, table::Style::Markdown))?;
    }
    let mut out = std::io::stdout().lock();
    let text = match &output.json {
        Some(file) if file == Path::new("-") => {
            if let Some(comparison) = &comparison {
                eprint!("{}", changes::render(comparison));
            }
            json
        }
        file => {
            if let Some(file) = file {
                write(file, &json)?;
            }
            let table = table::render(report, table::Style::Terminal);
            let line = report.machine.line();
            let changes = comparison.as_ref().map(changes::render).unwrap_or_default();
            let (seconds, page) = (report.seconds, page.display());
            format!("\n{line}\n\n{table}\n{changes}\n{seconds:.0} s in all; the page is {page}\n")
        }
    };
    out.write_all(text.as_bytes()).context("cannot print the report")?;
    let missed = report.missed().count();
    ensure!(!output.check || missed == 0, "{missed} goals are missed");
    old.zip(comparison.as_ref()).map_or(Ok(()), |(old, comparison)| old.judge(comparison))
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

    pub(super) fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Ok(Command::try_parse_from(["bench"].iter().chain(words))?.args)
    }
}
