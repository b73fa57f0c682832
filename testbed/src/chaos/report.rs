// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run showed, as a table for people and as JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::result::{CaseResult, Verdict};
use crate::{
    error::{Doing, Result},
    report::table::Style,
};

const HEADINGS: [&str; 12] = [
    "case",
    "kernel",
    "operations",
    "faults",
    "inval.",
    "waits",
    "checked",
    "wrong",
    "lost",
    "VmPin",
    "disturbed by",
    "verdict",
];

/// Columns of numbers.
const NUMBERS: std::ops::Range<usize> = 2..10;

/// Explains the columns.
pub const LEGEND: &str = "\
Numbers are of both guests together. faults: pages that the device had to ask for; inval.: ranges \
of memory that the kernels took from the device, and those for which they had to wait for it; checked, \
wrong: bytes whose contents were compared with what had to be there; lost: completions that did not \
come; VmPin: kB of payload that were pinned; disturbed by: what the programs did to their memory, and \
the kernels' own counters, of the left and the right guest.";

/// Version of the shape of the JSON report. Raised when a reader of the old shape would fail.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    well: bool,
    cases: &'a [CaseResult],
}

/// The report for programs.
///
/// # Errors
/// None in practice: every part of it can be serialised.
pub fn json(results: &[CaseResult]) -> Result<String> {
    let well = results.iter().all(|result| result.verdict != Verdict::Failed);
    let text = serde_json::to_string_pretty(&Json { version: VERSION, well, cases: results });
    Ok(text.doing(|| "serialise the report".into())? + "\n")
}

/// The table, and below it why cases did not pass.
pub fn table(results: &[CaseResult], style: Style) -> String {
    let mut table = Table::new();
    table.load_preset(match style {
        Style::Terminal => presets::NOTHING,
        Style::Markdown => presets::ASCII_MARKDOWN,
    });
    table.set_header(HEADINGS);
    for result in results {
        table.add_row(row(result));
    }
    for (number, column) in table.column_iter_mut().enumerate() {
        if NUMBERS.contains(&number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.to_string();
    for result in results.iter().filter(|result| !result.reasons.is_empty()) {
        let reasons = result.reasons.join("; ");
        text += &format!("\n\n{} with Linux {}: {reasons}", result.case, short(&result.kernel));
    }
    text.lines().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

fn row(result: &CaseResult) -> [String; HEADINGS.len()] {
    let verdict = match result.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::NotPossible => "not possible",
    };
    [
        result.case.clone(),
        short(&result.kernel),
        result.operations.to_string(),
        result.faults.to_string(),
        result.invalidations.to_string(),
        result.invalidation_waits.to_string(),
        bytes(result.bytes_checked),
        result.wrong_bytes.to_string(),
        result.completions_lost.to_string(),
        result.vm_pin_kb.to_string(),
        disturbed_by(result),
        verdict.into(),
    ]
}

fn disturbed_by(result: &CaseResult) -> String {
    let mut parts = Vec::new();
    let mutations = result.mutations.values().sum::<u64>();
    if mutations != 0 {
        parts.push(format!("{mutations} mutations"));
    }
    for shown in &result.evidence {
        let [left, right] = shown.grown;
        parts.push(format!("{} {left}, {right}", shown.name));
    }
    parts.join("; ")
}

/// The series of a kernel: `6.12` of `6.12.1+deb13-amd64`.
fn short(kernel: &str) -> String {
    kernel.split('.').take(2).collect::<Vec<_>>().join(".")
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chaos::{Case, result::Shown};

    fn results() -> Vec<CaseResult> {
        let new = |name: &str| {
            let case = Case::find(name).unwrap()[0];
            CaseResult::new(case, "6.12.9+deb13-amd64", Duration::from_secs(20))
        };
        let mut well = new("numa");
        well.operations = 123_456;
        well.bytes_checked = 3 << 20;
        well.mutations.insert("fork".into(), 17);
        let shown = Shown { name: "numa_pages_migrated".into(), grown: [300, 400], least: 256 };
        well.evidence.push(shown);
        let mut bad = new("fork");
        bad.wrong_bytes = 8;
        bad.fail("left program 0 (anon): 8 wrong bytes");
        let mut impossible = new("dax");
        impossible.verdict = Verdict::NotPossible;
        impossible.reasons.push("the kernel has no such thing".into());
        vec![well, bad, impossible]
    }

    #[test]
    fn a_table_for_a_terminal() {
        insta::assert_snapshot!(table(&results(), Style::Terminal));
    }

    #[test]
    fn a_table_for_markdown() {
        insta::assert_snapshot!(table(&results(), Style::Markdown));
    }

    #[test]
    fn one_failure_spoils_the_report() {
        let read = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        let report = read(json(&results()).unwrap());
        assert_eq!(
            (&report["well"], &report["cases"][1]["verdict"]),
            (&false.into(), &"failed".into())
        );
        assert_eq!(read(json(&results()[..1]).unwrap())["well"], true);
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!([0, 1023, 1024, 5 << 30].map(bytes), ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]);
    }
}
