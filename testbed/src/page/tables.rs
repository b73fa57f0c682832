// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All figures, as tables.

use maud::{Markup, html};

use super::{Inputs, summary::day, text, title_of};
use crate::{
    bench::{Report, Row, table},
    report::{self, cpu, table as comparison},
};

/// Tables of all runs.
pub fn section(inputs: &Inputs) -> Option<Markup> {
    let benches =
        inputs.benches.iter().filter(|report| !report.rows.is_empty()).collect::<Vec<_>>();
    let testbed = inputs.testbed.as_ref().filter(|report| !report.measurements.is_empty());
    if benches.is_empty() && testbed.is_none() {
        return None;
    }
    Some(html! {
        @for report in &benches { (bench(report)) }
        @if !benches.is_empty() { p.note { (table::LEGEND) } }
        @if let Some(report) = testbed { (guests(report)) }
    })
}

/// A table that scrolls by itself where there is too little room, by keyboard as well.
pub fn scrolling(label: &str, table: &Markup) -> Markup {
    html! { div.scroll role="region" aria-label=(label) tabindex="0" { (table) } }
}

fn bench(report: &Report) -> Markup {
    let mut lanes = report.rows.iter().map(|row| row.lane.as_str()).collect::<Vec<_>>();
    lanes.dedup();
    html! {
        @for lane in lanes {
            @let rows = report.rows.iter().filter(|row| row.lane == lane).collect::<Vec<_>>();
            @let title = title(report, lane);
            details open {
                summary { h3 { (title) } span.count { (day(&report.machine.date)) ", " (rows.len()) " rows" } }
                (scrolling(&title, &lane_table(&rows)))
            }
        }
    }
}

fn title(report: &Report, lane: &str) -> String {
    let bench = title_of(&report.bench);
    if lane.is_empty() || bench.eq_ignore_ascii_case(lane) {
        bench
    } else {
        format!("{bench}: {lane}")
    }
}

/// The column of units in the table of a bench.
const UNIT: usize = 5;

/// The column of the own device in the comparison between guests.
const OWN: usize = 3;

fn lane_table(rows: &[&Row]) -> Markup {
    let devices = rows.iter().any(|row| !row.device.is_empty());
    // A unit stands behind its number, where a narrow window shows it, too.
    let shown = |index: usize| index != UNIT && (devices || index != 2);
    let columns = table::HEADINGS.iter().enumerate().skip(1).filter(|(index, _)| shown(*index));
    let columns = columns.map(|(index, heading)| (index, *heading)).collect::<Vec<_>>();
    html! {
        table {
            thead { tr { @for (index, heading) in &columns { th.num[*index > 2] scope="col" { (heading) } } } }
            @for group in rows.chunk_by(|a, b| a.subject == b.subject) {
                tbody {
                    tr.group { th colspan=(columns.len()) scope="rowgroup" { span { (text::sentence(&group[0].subject)) } } }
                    @for row in group { (line(row, &columns)) }
                }
            }
        }
    }
}

fn line(row: &Row, columns: &[(usize, &str)]) -> Markup {
    let cells = table::cells(row);
    let missing = row.figure.is_none();
    html! {
        tr {
            @for (index, _) in columns {
                @let cell = &cells[*index];
                @match index {
                    1 => th scope="row" { (cell) },
                    2 => td.words { (cell) },
                    3 if !missing => td.num.own { (cell) " " (text::unit(&cells[UNIT])) },
                    // A reason is no number.
                    4 if missing => td.why { (cell) },
                    _ => td.num { (cell) },
                }
            }
        }
    }
}

fn guests(report: &report::Report) -> Markup {
    let rows = comparison::rows(report);
    let times = cpu::rows(report);
    html! {
        @if !rows.is_empty() {
            details open {
                summary {
                    h3 { (super::TESTBED) }
                    span.count { (day(&report.environment.date)) ", " (rows.len()) " rows" }
                }
                (scrolling(super::TESTBED, &by_program(&comparison::HEADINGS, &rows, OWN)))
            }
            p.note { (comparison::LEGEND.replace("microseconds", "µs")) }
        }
        @if !times.is_empty() {
            details open {
                summary { h3 { (cpu::HEADING) } span.count { (times.len()) " rows" } }
                (scrolling(cpu::HEADING, &by_program(&cpu::HEADINGS, &times, usize::MAX)))
            }
            p.note { (cpu::LEGEND.replace("microseconds", "µs")) }
        }
    }
}

/// A table in which each program is named once, above its rows; `own` is the column to look at first.
fn by_program(headings: &[&str], rows: &[(String, Vec<String>)], own: usize) -> Markup {
    html! {
        table {
            thead { tr {
                @for (index, heading) in headings.iter().enumerate().skip(1) {
                    th.num[index > 1] scope="col" { (heading) }
                }
            } }
            @for group in rows.chunk_by(|a, b| a.0 == b.0) {
                tbody {
                    tr.group { th colspan=(headings.len() - 1) scope="rowgroup" { span { (group[0].0) } } }
                    @for (_, cells) in group { tr {
                        @for (index, cell) in cells.iter().enumerate().skip(1) {
                            @if index == 1 {
                                th scope="row" { (cell) }
                            } @else {
                                td.num.own[index == own] { (text::unit(cell)) }
                            }
                        }
                    } }
                }
            }
        }
    }
}
