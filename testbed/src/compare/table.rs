// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A comparison for a terminal.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::{Change, Comparison, FLOOR, Finding};
use crate::bench::{Unit, table};

/// What is found of figures, in the order in which it is told, with what to call it.
pub const FINDINGS: [(Finding, &str); 6] = [
    (Finding::Worse, "worse"),
    (Finding::Better, "better"),
    (Finding::Different, "different"),
    (Finding::Hint, "hint"),
    (Finding::Unknown, "noise unknown"),
    (Finding::Steady, "steady"),
];

/// Explains the findings.
pub const LEGEND: &str = "\
A change is the median ratio of all pairs of rounds (Hodges-Lehmann), with its 95 % confidence interval. \
It counts if the interval leaves out 0, if it stands among all figures (at most 5 % of what is called \
changed is chance: Benjamini and Hochberg over Mann-Whitney p-values), from 2 % on, and if it is more than \
runs of one side differ by, where there are several. A hint has the interval, and not the rest.";

const HEADINGS: [&str; 6] = ["what", "before", "now", "change", "95 % interval", "finding"];

/// The whole comparison.
pub fn render(comparison: &Comparison) -> String {
    let Comparison { old, new, .. } = comparison;
    let (now, before) = (new.when(&new.date), old.when(&old.date));
    let mut text = format!("{}: {now}, compared with {before}\n\n", new.bench);
    let shown = FINDINGS.iter().filter(|(finding, _)| *finding != Finding::Steady);
    let shown = shown.flat_map(|(finding, word)| {
        comparison.found(*finding).into_iter().map(move |change| (change, *word))
    });
    let shown = shown.collect::<Vec<_>>();
    if !shown.is_empty() {
        let _ = write!(text, "{}\n\n", draw(&shown));
    }
    let _ = writeln!(text, "{}", counts(comparison));
    if comparison.changes.iter().any(|change| change.interval.is_some()) {
        let _ = writeln!(text, "{LEGEND}");
    }
    for (what, names) in [("only before", &comparison.gone), ("only now", &comparison.added)] {
        for name in names {
            let _ = writeln!(text, "{what}: {name}");
        }
    }
    for warning in &comparison.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// How many figures were found to be what, in a line.
pub fn counts(comparison: &Comparison) -> String {
    let count = |finding| comparison.changes.iter().filter(|c| c.finding == finding).count();
    let counts = FINDINGS.iter().map(|(finding, word)| (count(*finding), *word));
    let counts =
        counts.filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    match comparison.changes.len() {
        0 => "The runs share no figure.".into(),
        1 => format!("1 figure: {counts}."),
        all => format!("{all} figures: {counts}."),
    }
}

fn draw(shown: &[(&Change, &str)]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(HEADINGS);
    for (change, word) in shown {
        table.add_row([
            change.name(),
            value(change.unit, change.old),
            value(change.unit, change.new),
            change.change.map_or("from 0".into(), percent),
            interval(change),
            (*word).into(),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let text = table.to_string();
    let kept = text.lines().filter(|line| !line.starts_with('─')).map(str::trim_end);
    kept.collect::<Vec<_>>().join("\n")
}

/// A figure with a unit that suits it.
pub fn value(unit: Unit, value: f64) -> String {
    let (name, scale) = table::scale(unit, value.abs());
    format!("{} {name}", table::number(value / scale)).trim_end().into()
}

/// The interval of a change; a dash if there is none.
pub fn interval(change: &Change) -> String {
    let bounds =
        change.interval.map(|(low, high)| format!("{} .. {}", percent(low), percent(high)));
    bounds.unwrap_or_else(|| "-".into())
}

/// A relative change: `+12.3 %`, and a factor where percents are hard to read.
pub fn percent(part: f64) -> String {
    /// From here on a factor is easier to grasp.
    const FACTOR: f64 = 2.0;
    match part * 100.0 {
        percent if part >= FACTOR => format!("x {}", table::number(percent / 100.0 + 1.0)),
        percent if percent.abs() < FLOOR => "0 %".into(),
        percent if percent.abs() < 9.95 => format!("{percent:+.1} %"),
        percent => format!("{percent:+.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_written_as_they_are_read() {
        let texts = [0.0, 0.0001, 0.012, -0.2, 0.5, 1.99, 4.0, 200.0].map(percent);
        assert_eq!(texts, ["0 %", "0 %", "+1.2 %", "-20 %", "+50 %", "+199 %", "x 5.00", "x 201"]);
        assert_eq!(value(Unit::Nanoseconds, 1500.0), "1.50 us");
        assert_eq!(value(Unit::Count, 3.0), "3.00");
    }
}
