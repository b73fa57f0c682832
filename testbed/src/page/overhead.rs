// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What guests have over the verbs of their hosts: a number for each operation, with its confidence and its goal.

use maud::{Markup, html};

use super::{Inputs, summary::day, tables::scrolling};
use crate::bench::{
    Report,
    wire::{self, overhead},
};

const LABEL: &str = "Figures of guests over those of bare verbs";

/// The part of the page; `None` without such a run.
pub fn section(inputs: &Inputs) -> Option<Markup> {
    let reports = inputs.benches.iter().filter(|report| report.bench == wire::NAME);
    let reports = reports.filter(|report| !report.rows.is_empty()).collect::<Vec<_>>();
    if reports.is_empty() {
        return None;
    }
    Some(html! { @for report in &reports { (one(report)) } })
}

fn one(report: &Report) -> Markup {
    let lines = overhead::lines(&report.rows);
    let met = lines.iter().filter(|line| line.met() == Some(true)).count();
    let lane = report.rows.first().map_or("", |row| &row.lane);
    html! {
        p {
            (lane) ", " (day(&report.machine.date)) ": each figure of guests as a multiple of what programs have on \
             the hosts' own devices, in the same run over the same wire. Where it lies with 95 % confidence is in \
             brackets. " b { (met) " of " (lines.len()) } " goals are met."
        }
        (scrolling(LABEL, &html! {
            table {
                thead { tr {
                    th scope="col" { "operation" }
                    th scope="col" { "guests" }
                    th.num scope="col" { "over bare verbs" }
                    th scope="col" { "goal" }
                } }
                tbody {
                    @for line in &lines { tr {
                        th scope="row" { (line.what) }
                        td.words { (line.device) }
                        td.num.own { (line.number()) }
                        td.words { (line.judged()) }
                    } }
                }
            }
        }))
        @for (who, why) in overhead::not_run(&report.rows) { p.note { (who) ": " (why) "." } }
    }
}
