// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What changed since an earlier run.

use maud::{Markup, html};

use super::{summary::day, tables::scrolling, text, title_of};
use crate::compare::{
    Change, Comparison, Finding,
    table::{FINDINGS, LEGEND, counts, interval, percent},
};

/// Comparisons, if there are any.
pub fn section(comparisons: &[Comparison]) -> Option<Markup> {
    if comparisons.is_empty() {
        return None;
    }
    Some(html! {
        @for comparison in comparisons { (one(comparison)) }
        @if comparisons.iter().any(|c| c.changes.iter().any(|change| change.interval.is_some())) {
            p.note { (LEGEND) }
        }
    })
}

fn one(comparison: &Comparison) -> Markup {
    let Comparison { old, new, warnings, gone, added, .. } = comparison;
    let groups = FINDINGS.iter().map(|&(finding, word)| (finding, word, comparison.found(finding)));
    let groups = groups.filter(|(_, _, changes)| !changes.is_empty()).collect::<Vec<_>>();
    let told = groups.iter().filter(|(finding, ..)| !is_quiet(*finding)).collect::<Vec<_>>();
    html! {
        h3 { (title_of(&new.bench)) ": " (new.when(&day(&new.date))) " against " (old.when(&day(&old.date))) }
        p.score { (counts(comparison)) }
        @if !warnings.is_empty() { ul.warnings { @for warning in warnings { li { (warning) } } } }
        @if !told.is_empty() { (scrolling("Changes", &table(&told))) }
        @for group in groups.iter().filter(|(finding, ..)| is_quiet(*finding)) {
            details {
                summary { (text::sentence(group.1)) ": " (group.2.len()) }
                (scrolling(group.1, &table(&[group])))
            }
        }
        @for (what, names) in [("Only in the earlier run", gone), ("Only in this run", added)] {
            @if !names.is_empty() {
                details { summary { (what) ": " (names.len()) } ul { @for name in names { li { (name) } } } }
            }
        }
    }
}

/// Findings that are many, and say little.
fn is_quiet(finding: Finding) -> bool {
    matches!(finding, Finding::Steady | Finding::Unknown)
}

fn table(groups: &[&(Finding, &str, Vec<&Change>)]) -> Markup {
    const HEADINGS: [&str; 4] = ["change", "95 % interval", "before", "now"];
    html! {
        table {
            thead { tr {
                th scope="col" { "what" }
                @for heading in HEADINGS { th.num scope="col" { (heading) } }
            } }
            @for (finding, word, changes) in groups {
                tbody {
                    tr.group {
                        th colspan=(HEADINGS.len() + 1) scope="rowgroup" {
                            span { span class={ "tag " (class(*finding)) } { (word) } }
                        }
                    }
                    @for change in changes {
                        tr {
                            th scope="row" { (change.name()) }
                            td.num.own { (change.change.map_or("from 0".into(), percent)) }
                            td.num { (interval(change)) }
                            td.num { (text::value(change.unit, change.old)) }
                            td.num { (text::value(change.unit, change.new)) }
                        }
                    }
                }
            }
        }
    }
}

fn class(finding: Finding) -> &'static str {
    match finding {
        Finding::Worse => "missed",
        Finding::Better => "met",
        Finding::Different | Finding::Hint | Finding::Steady | Finding::Unknown => "plain",
    }
}
