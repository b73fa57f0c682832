// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `report.md`.

use std::fmt::Write;

use super::{
    Report,
    table::{self, LEGEND, Style},
};
use crate::measure::{Kind, sizes};

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
    let checks = report.checks.iter().map(|check| format!("- {check}\n"));
    section(&mut text, "Checks", &checks.collect::<String>());
    section(
        &mut text,
        "Notes",
        &report.notes.iter().map(|note| format!("- {note}\n")).collect::<String>(),
    );
    let lines = report.environment.lines();
    let environment = lines.iter().map(|(name, value)| format!("| {name} | {value} |\n"));
    let environment = environment.collect::<String>();
    section(&mut text, "Environment", &format!("| what | value |\n|---|---|\n{environment}"));
    section(&mut text, "Settings", &settings(report));
    text.truncate(text.trim_end().len());
    text + "\n"
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
    format!(
        "- programs: {}\n- over: {}\n- latency sizes: {}\n- bandwidth sizes: {}\n- iterations: {iterations}\n- run time: {:.0} s\n",
        join(settings.programs.iter().map(ToString::to_string).collect()),
        join(settings.transports.iter().map(ToString::to_string).collect()),
        sizes(Kind::Latency),
        sizes(Kind::Bandwidth),
        report.seconds,
    )
}
