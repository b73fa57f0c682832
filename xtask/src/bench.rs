// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: what the device costs.

mod memory;
mod path;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use vnic_testbed::bench::{Machine, Report, table};
use vnic_testbed::host::Watch;
use vnic_testbed::provision::workspace::Workspace;

use crate::{fitness, tools};

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
}

/// Builds what is needed, measures and reports.
///
/// # Errors
/// When any of it fails; with `--check`, also when a goal is missed, and with `--strict` when the machine
/// is not fit.
pub fn run(args: &Args) -> Result<()> {
    if cfg!(debug_assertions) {
        return again_optimised();
    }
    let since = Instant::now();
    let daemon = build_daemon()?;
    let machine = Machine::look();
    let (name, quick, output) = match &args.bench {
        Some(Bench::Memory(memory)) => ("memory", memory.quick, &memory.output),
        Some(Bench::Path(path)) => ("path", path.quick, &path.output),
        None => ("path", args.path.quick, &args.path.output),
    };
    fitness::before(&machine.warnings(), output.strict)?;
    let watch = Watch::begin();
    let mut findings = match &args.bench {
        Some(Bench::Memory(memory)) => memory.run(&daemon)?,
        Some(Bench::Path(path)) => path.run(&daemon)?,
        None => args.path.run(&daemon)?,
    };
    let over = watch.end();
    findings.notes.extend(machine.warnings());
    findings.notes.extend(over.warnings());
    findings.notes.push(over.note());
    let mut report = Report::new(name, quick, machine, findings);
    report.seconds = since.elapsed().as_secs_f64();
    finish(&report, output)?;
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

/// Where the newest report of the data path lies, for whoever draws it.
fn newest() -> PathBuf {
    Workspace::at(&tools::root()).target().join("testbed/bench.json")
}

/// Writes the report wherever it is wanted, and judges it.
fn finish(report: &Report, output: &Output) -> Result<()> {
    let write = |file: &Path, text: &str| {
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    let json = report.json()?;
    if report.bench == "path" {
        let file = newest();
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        write(&file, &json)?;
    }
    if let Some(file) = &output.markdown {
        write(file, &table::render(report, table::Style::Markdown))?;
    }
    let mut out = std::io::stdout().lock();
    let text = match &output.json {
        Some(file) if file == Path::new("-") => json,
        file => {
            if let Some(file) = file {
                write(file, &json)?;
            }
            let table = table::render(report, table::Style::Terminal);
            let line = report.machine.line();
            format!("\n{line}\n\n{table}\n{:.0} s in all\n", report.seconds)
        }
    };
    out.write_all(text.as_bytes()).context("cannot print the report")?;
    let missed = report.missed().count();
    ensure!(!output.check || missed == 0, "{missed} goals are missed");
    Ok(())
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
