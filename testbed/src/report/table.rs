// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The comparison as one table, and how tables are drawn.

use comfy_table::{CellAlignment, Table, presets};

use super::Report;
use crate::{
    measure::{Kind, Measurement, Program, Transport, Values, goals, sizes},
    workload::tcp,
};

/// What stands where there is no number.
pub(super) const MISSING: &str = "-";

/// Headings of the columns.
pub(crate) const HEADINGS: [&str; 11] = [
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
a whole one for read; ibv_rc_pingpong tells the mean of a whole one. Bandwidths are means; M/s are \
millions of messages in a second. What was measured in several rounds is from the median one. A ratio \
says how many times better the vNIC is, so that more than 1 is in its favour; that to rxe is of the same \
round, in the median round.";

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
    draw(&HEADINGS, rows(report), style)
}

/// Draws rows with the name of their group, which is also the first cell; empty without rows.
pub(super) fn draw(headings: &[&str], rows: Vec<(String, Vec<String>)>, style: Style) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_preset(match style {
        Style::Terminal => presets::UTF8_HORIZONTAL_ONLY,
        Style::Markdown => presets::ASCII_MARKDOWN,
    });
    table.set_header(headings);
    let mut before = None;
    for (group, mut cells) in rows {
        // On a terminal a program is named once, above its sizes.
        if style == Style::Terminal && before.as_ref() == Some(&group) {
            cells[0].clear();
        }
        before = Some(group);
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

/// Each row, under its program.
pub(crate) fn rows(report: &Report) -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    for &program in &report.settings.programs {
        let group = program.name();
        for bytes in sizes_of(report, program) {
            rows.push((group.into(), row(report, program, bytes)));
            if program.kind() == Kind::Bandwidth && bytes == goals::SMALL {
                rows.extend(rates(report, program).map(|cells| (group.into(), cells)));
            }
        }
    }
    rows
}

fn sizes_of(report: &Report, program: Program) -> Vec<u64> {
    let mut all = report.settings.sizes.of(program.kind()).to_vec();
    // A ping-pong has sizes of its own.
    if program.kind() == Kind::PingPong {
        let own = report.measurements.iter().filter(|m| m.program == Some(program));
        all.extend(own.map(|measurement| measurement.bytes));
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// What stands in the table for a program over a transport, by size.
pub(crate) fn of(
    report: &Report,
    program: Program,
    transport: Transport,
) -> Vec<(u64, &Measurement)> {
    let sizes = sizes_of(report, program).into_iter();
    sizes.filter_map(|bytes| Some((bytes, find(report, program, transport, bytes)?))).collect()
}

fn find(
    report: &Report,
    program: Program,
    transport: Transport,
    bytes: u64,
) -> Option<&Measurement> {
    match transport {
        Transport::Tcp => tcp_of(report, program, bytes),
        _ => report.find(program, transport, bytes),
    }
}

fn row(report: &Report, program: Program, bytes: u64) -> Vec<String> {
    let [vnic, rxe, tcp] = [Transport::Vnic, Transport::Rxe, Transport::Tcp]
        .map(|transport| find(report, program, transport, bytes));
    let unit = match program.kind() {
        Kind::Bandwidth => "MiB/s",
        Kind::Show | Kind::PingPong | Kind::Latency => "us",
    };
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
        shown(vnic.zip(rxe).and_then(|(vnic, rxe)| times_better(vnic, rxe))),
        shown(vnic.zip(tcp).and_then(|(vnic, tcp)| times_better(vnic, tcp))),
    ];
    cells.into()
}

/// How many times better the vNIC is: in the same round, but for TCP, which is not measured as often, and
/// not in between.
pub(crate) fn times_better(vnic: &Measurement, other: &Measurement) -> Option<f64> {
    match other.transport {
        Transport::Tcp => Some(vnic.values.times_better_than(&other.values)),
        _ => goals::times_better(vnic, other),
    }
}

/// Messages in a second, of messages so small that their number counts; TCP has none.
fn rates(report: &Report, program: Program) -> Option<Vec<String>> {
    let of = |transport| report.find(program, transport, goals::SMALL);
    let (vnic, rxe) = (of(Transport::Vnic), of(Transport::Rxe));
    let rate = |of: Option<&Measurement>| shown(of.and_then(|m| m.values.message_rate()));
    vnic.or(rxe)?;
    let ratio = vnic.zip(rxe).and_then(|(vnic, rxe)| goals::times_better(vnic, rxe));
    let missing = || String::from(MISSING);
    let (name, size) = (program.name().into(), sizes::text(goals::SMALL));
    let devices = [rate(vnic), missing(), rate(rxe), missing(), missing(), missing()];
    let cells = [name, size, "M/s".into()].into_iter().chain(devices);
    Some(cells.chain([shown(ratio), missing()]).collect())
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
    shown(measurement.map(|m| m.values.primary()))
}

fn p99(measurement: Option<&Measurement>) -> String {
    shown(measurement.and_then(|m| m.values.p99()))
}

fn shown(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or(MISSING.into(), number)
}

/// About three significant digits, or all before the point.
pub(super) fn number(value: f64) -> String {
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
