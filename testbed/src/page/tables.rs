// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All figures, as tables.

use maud::{Markup, html};

use super::{Inputs, summary::day, text, title_of};
use crate::{
    bench::{Report, Row, table},
    measure::Program,
    report::{self, table as comparison},
};

/// Tables of all runs.
pub fn section(inputs: &Inputs) -> Option<Markup> {
    let benches =
        inputs.benches.iter().filter(|report| !report.rows.is_empty()).collect::<Vec<_>>();
    let testbed = inputs.testbed.as_ref().map(|report| (report, comparison::rows(report)));
    let testbed = testbed.filter(|(_, rows)| !rows.is_empty());
    if benches.is_empty() && testbed.is_none() {
        return None;
    }
    Some(html! {
        @for report in &benches { (bench(report)) }
        @if !benches.is_empty() { p.note { (table::LEGEND) } }
        @if let Some((report, rows)) = &testbed { (guests(report, rows)) }
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

fn lane_table(rows: &[&Row]) -> Markup {
    let devices = rows.iter().any(|row| !row.device.is_empty());
    let columns =
        table::HEADINGS.iter().enumerate().skip(1).filter(|(index, _)| devices || *index != 2);
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
                @let cell = if *index == 5 { text::unit(&cells[*index]) } else { &cells[*index] };
                @match index {
                    1 => th scope="row" { (cell) },
                    2 => td { (cell) },
                    // A reason is no number.
                    4 if missing => td.why { (cell) },
                    _ => td.num { (cell) },
                }
            }
        }
    }
}

fn guests(report: &report::Report, rows: &[comparison::Row]) -> Markup {
    let table = html! {
        table {
            thead { tr {
                @for (index, heading) in comparison::HEADINGS.iter().enumerate().skip(1) {
                    th.num[index > 1] scope="col" { (heading) }
                }
            } }
            @for group in rows.chunk_by(|a, b| a.program == b.program) {
                tbody {
                    (program(group[0].program))
                    @for row in group { tr {
                        @for (index, cell) in row.cells.iter().enumerate().skip(1) {
                            @match index {
                                1 => th scope="row" { (cell) },
                                3 => td.num.own { (cell) },
                                _ => td.num { (text::unit(cell)) },
                            }
                        }
                    } }
                }
            }
        }
    };
    html! {
        details open {
            summary {
                h3 { (super::TESTBED) }
                span.count { (day(&report.environment.date)) ", " (rows.len()) " rows" }
            }
            (scrolling(super::TESTBED, &table))
        }
        p.note { (comparison::LEGEND.replace("microseconds", "µs")) }
    }
}

fn program(program: Program) -> Markup {
    html! {
        tr.group { th colspan=(comparison::HEADINGS.len() - 1) scope="rowgroup" { span { (program) } } }
    }
}
