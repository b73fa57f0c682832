// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a bench found, for people: a table for each lane, then goals and notes.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::{
    report::{Report, Row, Verdict},
    sample::{Figure, Unit},
};

/// Headings of the columns.
pub(crate) const HEADINGS: [&str; 8] =
    ["what", "case", "device", "median", "half lie in", "unit", "samples", "ratio"];

/// Explains the columns.
pub const LEGEND: &str = "\
Half of all samples lie in the range; \"samples\" is their number, in how many rounds. A ratio compares \
medians of the same round, and is that of the median round; with a range, it is that of the median pair of rounds, and \
lies in the range with 95 % confidence.";

/// How the text is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For a terminal.
    Terminal,
    /// For Markdown.
    Markdown,
}

/// The whole report.
pub fn render(report: &Report, style: Style) -> String {
    let (heading, item) = match style {
        Style::Terminal => ("", "  "),
        Style::Markdown => ("### ", "- "),
    };
    let mut text = String::new();
    let mut lanes = report.rows.iter().map(|row| row.lane.as_str()).collect::<Vec<_>>();
    lanes.dedup();
    for lane in lanes {
        let rows = report.rows.iter().filter(|row| row.lane == lane);
        let _ = write!(text, "{heading}{lane}\n\n{}\n\n", table(rows, style));
    }
    if !report.rows.is_empty() {
        let _ = write!(text, "{LEGEND}\n\n");
    }
    let verdicts = report.verdicts.iter().map(verdict);
    list(&mut text, &format!("{heading}Goals"), item, verdicts);
    list(&mut text, &format!("{heading}Notes"), item, report.notes.iter().cloned());
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn list(text: &mut String, heading: &str, item: &str, lines: impl Iterator<Item = String>) {
    let lines = lines.map(|line| format!("{item}{line}\n")).collect::<String>();
    if !lines.is_empty() {
        let _ = write!(text, "{heading}\n\n{lines}\n");
    }
}

/// A goal in a line.
pub fn verdict(verdict: &Verdict) -> String {
    let Verdict { lane, goal, found, limit, at_least, met, .. } = verdict;
    let word = if *met { "met" } else { "MISSED" };
    let bound = if *at_least { "at least" } else { "at most" };
    let found = found.map_or("no number".into(), |found| format!("{:.2}", Trimmed(found)));
    format!("{word}: {goal}: {found} ({bound} {}; {lane})", Trimmed(*limit))
}

/// A number without a fraction where it has none.
struct Trimmed(f64);

impl std::fmt::Display for Trimmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.fract() == 0.0 { write!(f, "{:.0}", self.0) } else { self.0.fmt(f) }
    }
}

fn table<'a>(rows: impl Iterator<Item = &'a Row>, style: Style) -> String {
    let rows = rows.collect::<Vec<_>>();
    let devices = rows.iter().any(|row| !row.device.is_empty());
    // A column that says nothing only takes room.
    let shown = |cells: [String; HEADINGS.len()]| {
        let cells = cells.into_iter().enumerate();
        cells.filter(|(index, _)| devices || *index != 2).map(|(_, cell)| cell).collect::<Vec<_>>()
    };
    let mut table = Table::new();
    table.load_preset(match style {
        Style::Terminal => presets::UTF8_HORIZONTAL_ONLY,
        Style::Markdown => presets::ASCII_MARKDOWN,
    });
    table.set_header(shown(HEADINGS.map(String::from)));
    let mut before = "";
    for row in rows {
        let mut cells = cells(row);
        // On a terminal a subject is named once, above its cases.
        if style == Style::Terminal && before == row.subject {
            cells[0].clear();
        }
        before = &row.subject;
        table.add_row(shown(cells));
    }
    let text_columns = if devices { 3 } else { 2 };
    for column in table.column_iter_mut().skip(text_columns) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let text = table.to_string();
    match style {
        Style::Markdown => text,
        Style::Terminal => {
            let kept = text.lines().filter(|line| !line.starts_with('─')).map(str::trim_end);
            kept.collect::<Vec<_>>().join("\n")
        }
    }
}

/// What is written under the [`HEADINGS`].
pub(crate) fn cells(row: &Row) -> [String; HEADINGS.len()] {
    let names = [row.subject.clone(), row.case.clone(), row.device.clone()];
    let ratio = row.compared.as_ref().map_or(String::new(), |compared| {
        let within = compared
            .within
            .map_or(String::new(), |(low, high)| format!(" ({}-{})", number(low), number(high)));
        format!("{}{within} x {}", number(compared.times), compared.with)
    });
    let [subject, case, device] = names;
    let [median, range, unit, samples] = match (&row.figure, &row.missing) {
        (Some(figure), _) => numbers(figure),
        (None, why) => ["-".into(), why.clone().unwrap_or_default(), String::new(), String::new()],
    };
    [subject, case, device, median, range, unit, samples, ratio]
}

/// Median, range, unit and number of samples, with a unit that suits the median.
fn numbers(figure: &Figure) -> [String; 4] {
    let (unit, scale) = scale(figure.unit, figure.median);
    let text = |value: f64| match figure.unit {
        Unit::Count => Trimmed(value).to_string(),
        _ => number(value / scale),
    };
    let range = format!("{} .. {}", text(figure.lower), text(figure.upper));
    let samples = format!("{} in {}", figure.samples, figure.rounds);
    [text(figure.median), range, unit.into(), samples]
}

/// The unit in which a person would tell `value`, and what to divide by.
pub fn scale(unit: Unit, value: f64) -> (&'static str, f64) {
    const KIB: f64 = 1024.0;
    match unit {
        Unit::Count => ("", 1.0),
        Unit::Percent => ("%", 1.0),
        Unit::Nanoseconds if value < 1e3 => ("ns", 1.0),
        Unit::Nanoseconds if value < 1e6 => ("us", 1e3),
        Unit::Nanoseconds => ("ms", 1e6),
        Unit::Bytes if value < 10.0 * KIB => ("B", 1.0),
        Unit::Bytes if value < 10.0 * KIB * KIB => ("KiB", KIB),
        Unit::Bytes => ("MiB", KIB * KIB),
        Unit::BytesPerSecond if value < KIB * KIB * KIB => ("MiB/s", KIB * KIB),
        Unit::BytesPerSecond => ("GiB/s", KIB * KIB * KIB),
        Unit::PerSecond if value < 1e3 => ("/s", 1.0),
        Unit::PerSecond if value < 1e6 => ("k/s", 1e3),
        Unit::PerSecond => ("M/s", 1e6),
    }
}

/// Three significant digits, or all before the point.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::{Findings, Machine, Samples},
        host::Conditions,
    };

    fn report() -> Report {
        let figure = |unit, values: &[f64]| {
            let mut samples = Samples::new(unit);
            samples.push_round(values.to_vec());
            samples.push_round(values.to_vec());
            samples.figure()
        };
        let ns = |values: &[f64]| figure(Unit::Nanoseconds, values);
        let rows = vec![
            Row::new("register", "4 KiB", ns(&[41_000.0, 42_500.0, 47_000.0])),
            Row::new("register", "64 GiB", ns(&[41_000.0, 43_000.0, 47_000.0]))
                .times(Some(1.0117), "4 KiB"),
            Row::new("translate", "hit", ns(&[1.234, 1.239, 1.3])),
            Row::new("page requests", "1 MiB", figure(Unit::Count, &[1.0, 1.0, 2.0])),
            Row::new("register", "1 GiB", ns(&[2.5e6])).over("vNIC"),
            Row::new("register", "1 GiB", None).over("rxe").missing("Cannot allocate memory"),
        ];
        let mut findings = Findings { rows, ..Findings::default() };
        for (index, row) in findings.rows.iter_mut().enumerate() {
            row.lane = if index < 4 { "process guests" } else { "Linux 6.12" }.into();
        }
        findings.verdicts = vec![
            Verdict::at_most("largest over smallest", Some(1.0117), 1.5),
            Verdict::at_most("wakes", Some(3.0), 0.0),
            Verdict::at_least("speed-up", None, 2.0),
        ];
        for verdict in &mut findings.verdicts {
            verdict.lane = "process guests".into();
        }
        findings.notes = vec!["the machine is busy".into()];
        let machine = Machine {
            date: "2001-02-03T04:05:06Z".into(),
            cpu: "a processor".into(),
            cores: 2,
            memory_mib: 4096,
            kernel: "6.1".into(),
            load: 0.25,
            jitter: 1.05,
            conditions: Conditions::default(),
        };
        Report::new("memory", true, machine, findings)
    }

    #[test]
    fn for_a_terminal() {
        insta::assert_snapshot!(render(&report(), Style::Terminal));
    }

    #[test]
    fn for_markdown() {
        insta::assert_snapshot!(render(&report(), Style::Markdown));
    }

    #[test]
    fn for_programs() {
        let json = report().json().unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report());
        insta::assert_snapshot!(json);
    }
}
