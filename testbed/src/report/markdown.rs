// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `report.md`.

use std::fmt::Write;

use super::{
    Report, cpu,
    table::{self, LEGEND, Style},
};
use crate::{
    bench::table::verdict,
    measure::{Kind, sizes},
};

/// The report for people.
pub fn render(report: &Report) -> String {
    let mut text = String::from("# vNIC, rxe and TCP between two guests\n\n");
    if let Some(failure) = &report.failure {
        section(
            &mut text,
            "Failure",
            &format!("The run ended early.\n\n```text\n{}\n```", failure.trim_end()),
        );
    }
    let table = table::render(report, Style::Markdown);
    if !table.is_empty() {
        section(&mut text, "Results", &format!("{table}\n\n{LEGEND}"));
    }
    section(&mut text, "Goals", &list(report.verdicts.iter().map(verdict)));
    let table = cpu::render(report, Style::Markdown);
    if !table.is_empty() {
        let legend = cpu::LEGEND;
        section(&mut text, cpu::HEADING, &format!("{table}\n\n{legend}"));
    }
    section(&mut text, "Checks", &list(report.checks.iter().map(ToString::to_string)));
    section(&mut text, "Warnings", &list(report.warnings.iter().cloned()));
    section(&mut text, "Notes", &list(report.notes.iter().cloned()));
    let lines = report.environment.lines();
    let environment = lines.iter().map(|(name, value)| format!("| {name} | {value} |\n"));
    let environment = environment.collect::<String>();
    section(&mut text, "Environment", &format!("| what | value |\n|---|---|\n{environment}"));
    section(&mut text, "Settings", &settings(report));
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn list(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| format!("- {line}\n")).collect()
}

fn section(text: &mut String, heading: &str, body: &str) {
    if !body.is_empty() {
        let _ = write!(text, "## {heading}\n\n{}\n\n", body.trim_end());
    }
}

fn settings(report: &Report) -> String {
    let settings = &report.settings;
    let join = |list: Vec<String>| list.join(", ");
    let sizes =
        |kind| join(settings.sizes.of(kind).iter().map(|&size| sizes::text(size)).collect());
    let iterations =
        settings.iterations.map_or("chosen for each measurement".into(), |n| n.to_string());
    let rounds = match (settings.rounds, settings.repeat_all) {
        (1, _) => "1".to_string(),
        (n, true) => n.to_string(),
        (n, false) => format!("{n} of what goals are about, 1 of the rest"),
    };
    format!(
        "- programs: {}\n- over: {}\n- latency sizes: {}\n- bandwidth sizes: {}\n- iterations: {iterations}\n- rounds: {rounds}\n- run time: {:.0} s\n",
        join(settings.programs.iter().map(ToString::to_string).collect()),
        join(settings.transports.iter().map(ToString::to_string).collect()),
        sizes(Kind::Latency),
        sizes(Kind::Bandwidth),
        report.seconds,
    )
}
