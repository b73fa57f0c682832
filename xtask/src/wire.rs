// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask testbed --wire`: guests of two hosts against the verbs of the hosts themselves.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vnic_testbed::bench::wire::{
    self, Effort, hosts::Here, hosts::Hosts, hosts::Machines, hosts::present, overhead,
};
use vnic_testbed::bench::{Machine, Report, table};
use vnic_testbed::compare::{entry, table as changes};
use vnic_testbed::host::Watch;
use vnic_testbed::page::gather;
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::workspace::Workspace;
use vnic_testbed::report::environment;

use crate::testbed::Args;
use crate::{fitness, hosts, tools};

/// The device that needs no hardware: rxe, between two virtual machines.
const RXE: &str = "rxe";

/// How much is measured.
pub(crate) fn effort(args: &Args) -> Effort {
    let mut effort = if args.quick { Effort::quick() } else { Effort::full() };
    if !args.sizes.is_empty() {
        effort.plan.sizes = args.sizes.clone();
        effort.plan.sizes.sort_unstable();
        effort.plan.sizes.dedup();
    }
    effort.rounds = args.rounds.map_or(effort.rounds, usize::from);
    effort
}

/// Builds, boots, measures and reports.
///
/// # Errors
/// When any of it fails; with `--check` also when a goal is missed, with `--strict` when the machine is not fit, and with
/// `--fail-above` when a figure became worse.
pub fn run(device: &str, args: &Args) -> Result<()> {
    let since = Instant::now();
    let old = args.compare.old()?;
    if let Some(old) = &old {
        old.check(wire::NAME)?;
    }
    if device != RXE {
        // Known before minutes of building.
        present(device)?;
    }
    let workspace = Workspace::at(&tools::root());
    let folder = workspace.target().join("testbed");
    hosts::build()?;
    let machine = Machine::look();
    fitness::before(&machine.warnings(), args.strict)?;
    let hosts: Box<dyn Hosts> = if device == RXE {
        let provision = Provision::prepare(Workspace::at(&tools::root()))?;
        Box::new(Machines::boot(&provision, &workspace)?)
    } else {
        Box::new(Here::start(device, &workspace)?)
    };
    let watch = Watch::begin();
    let mut findings = wire::run(&*hosts, &effort(args))?;
    let over = watch.end();
    drop(hosts);
    findings.notes.push(over.note());
    let mut report = Report::new(wire::NAME, args.quick, machine, findings);
    report.seconds = since.elapsed().as_secs_f64();
    report.warnings = [report.machine.warnings(), over.warnings()].concat();
    report.command = Some(tools::command_line());
    report.commit = environment::commit_of(&tools::root());

    let comparison = old.as_ref().map(|old| old.with(entry::of_bench(&report)));
    let page = gather::keep_bench(&folder, &report, comparison.as_ref())?;
    let changes = comparison.as_ref().map(changes::render).unwrap_or_default();
    let text = if args.json {
        eprint!("{changes}");
        report.json()?
    } else {
        let (seconds, page) = (report.seconds, page.display());
        format!("\n{}{changes}\n{seconds:.0} s in all; the page is {page}\n", shown(&report))
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the report")?;
    let missed = report.missed().count();
    ensure!(!args.check || missed == 0, "{missed} of {} goals are missed", report.verdicts.len());
    fitness::after(&over.warnings(), args.strict)?;
    old.zip(comparison).map_or(Ok(()), |(old, comparison)| old.judge(&comparison))
}

/// The report for a terminal: what it is for comes first.
fn shown(report: &Report) -> String {
    let mut text = format!("{}\n\n{}\n", report.machine.line(), overhead::render(&report.rows));
    text += &table::render(report, table::Style::Terminal);
    for warning in &report.warnings {
        text += &format!("Warning: {warning}\n");
    }
    text
}
