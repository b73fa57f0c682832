// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The comparison as one table.

use comfy_table::{CellAlignment, Table, presets};

use super::Report;
use crate::{
    measure::{Kind, Measurement, Program, Transport, Values, sizes},
    workload::tcp,
};

/// What stands where there is no number.
const MISSING: &str = "-";

const HEADINGS: [&str; 11] = [
    "program",
    "size",
    "unit",
    "vNIC",
    "p99",
    "rxe",
    "p99",
    "TCP",
    "p99",
    "rxe ratio",
    "TCP ratio",
];

/// Explains the columns.
pub const LEGEND: &str = "\
Times are medians and 99th percentiles in microseconds: half a round trip for write, send and TCP, \
a whole one for read; ibv_rc_pingpong tells the mean of a whole one. Bandwidths are means. A ratio \
says how many times better the vNIC is, so that more than 1 is in its favour.";

/// How a table is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// With lines, for a terminal.
    Terminal,
    /// For Markdown.
    Markdown,
}

/// Draws the table; empty if nothing was measured.
pub fn render(report: &Report, style: Style) -> String {
    let rows = rows(report);
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_preset(match style {
        Style::Terminal => presets::UTF8_HORIZONTAL_ONLY,
        Style::Markdown => presets::ASCII_MARKDOWN,
    });
    table.set_header(HEADINGS);
    let mut before = None;
    for row in rows {
        let mut cells = row.cells;
        // On a terminal a program is named once, above its sizes.
        if style == Style::Terminal && before == Some(row.program) {
            cells[0].clear();
        }
        before = Some(row.program);
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let text = table.to_string();
    match style {
        Style::Markdown => text,
        // A line below every row would double the length of the table.
        Style::Terminal => without_inner_rules(&text),
    }
}

fn without_inner_rules(text: &str) -> String {
    let rule = |line: &str| line.starts_with('─');
    let kept = text.lines().filter(|line| !rule(line)).collect::<Vec<_>>();
    kept.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

struct Row {
    program: Program,
    cells: [String; 11],
}

fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for &program in &report.settings.programs {
        let mut all = report.settings.sizes.of(program.kind()).to_vec();
        // A ping-pong has sizes of its own; of others more may have been measured than was asked.
        if program.kind() == Kind::PingPong {
            let own = report.measurements.iter().filter(|m| m.program == Some(program));
            all.extend(own.map(|measurement| measurement.bytes));
        }
        all.sort_unstable();
        all.dedup();
        rows.extend(all.into_iter().map(|bytes| row(report, program, bytes)));
    }
    rows
}

fn row(report: &Report, program: Program, bytes: u64) -> Row {
    let vnic = report.find(program, Transport::Vnic, bytes);
    let rxe = report.find(program, Transport::Rxe, bytes);
    let tcp = tcp_of(report, program, bytes);
    let unit = match program.kind() {
        Kind::Bandwidth => "MiB/s",
        Kind::Show | Kind::PingPong | Kind::Latency => "us",
    };
    let [a, b] = [(vnic, rxe), (vnic, tcp)].map(|(vnic, other)| ratio(vnic, other));
    let cells = [
        program.name().into(),
        sizes::text(bytes),
        unit.into(),
        primary(vnic),
        p99(vnic),
        primary(rxe),
        p99(rxe),
        primary(tcp),
        p99(tcp),
        a,
        b,
    ];
    Row { program, cells }
}

fn tcp_of(report: &Report, program: Program, bytes: u64) -> Option<&Measurement> {
    if !program.compares_with_tcp() {
        return None;
    }
    let bytes = match program.kind() {
        Kind::Latency => tcp::stand_in(bytes)?,
        _ => bytes,
    };
    report.measurements.iter().find(|measurement| {
        let kind = match measurement.values {
            Values::Latency { .. } => Kind::Latency,
            Values::RoundTrip { .. } => Kind::PingPong,
            Values::Bandwidth { .. } => Kind::Bandwidth,
        };
        measurement.transport == Transport::Tcp
            && measurement.bytes == bytes
            && kind == program.kind()
    })
}

fn primary(measurement: Option<&Measurement>) -> String {
    measurement.map_or(MISSING.into(), |m| number(m.values.primary()))
}

fn p99(measurement: Option<&Measurement>) -> String {
    measurement.and_then(|m| m.values.p99()).map_or(MISSING.into(), number)
}

fn ratio(vnic: Option<&Measurement>, other: Option<&Measurement>) -> String {
    let (Some(vnic), Some(other)) = (vnic, other) else { return MISSING.into() };
    let times = vnic.values.times_better_than(&other.values);
    if times.is_finite() { number(times) } else { MISSING.into() }
}

/// About three significant digits, or all before the point.
fn number(value: f64) -> String {
    match value {
        _ if value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ if value >= 0.0995 => format!("{value:.2}"),
        _ if value >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let numbers = [1234.5, 99.96, 12.345, 9.996, 1.0, 0.25, 0.0123, 0.000_004];
        let texts = ["1234", "100", "12.3", "10.0", "1.00", "0.25", "0.0123", "4.0e-6"];
        assert_eq!(numbers.map(number), texts);
    }
}
