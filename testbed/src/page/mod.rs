// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One page that shows what was measured: `report.html`.
//!
//! The page is a single file that asks for nothing else: no script, no font, no picture from elsewhere,
//! and a policy in its head that would not let it. It is as good on a phone as on a desk, by day and by
//! night, and carries its data.
//!
//! - [`Inputs`] is what it is made of, and [`render`] makes it, without looking at anything else.
//! - [`gather`] reads the reports that earlier runs left, and writes the page.
//! - [`overhead`]: what guests have over the verbs of their hosts, number by number.
//! - [`plot`]: pictures; [`summary`], [`tables`], [`changes`], [`facts`]: the other parts.
//!
//! Names, notes and numbers come from programs and machines. They are text wherever they appear: the
//! templates escape all that they are given.

pub mod changes;
pub mod facts;
pub mod gather;
pub mod overhead;
pub mod plot;
pub mod summary;
pub mod tables;
pub mod text;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::plot::{
    Plot, Shape, choose, draw,
    palette::{self, Palette},
};
use crate::{
    bench::{self, wire},
    compare::Comparison,
    report,
};

const STYLE: &str = include_str!("style.css");

/// What the page may load and run: nothing but its own style.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// What a page is made of.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Reports of benches, in the order of the page.
    pub benches: Vec<bench::Report>,
    /// The report of the testbed.
    pub testbed: Option<report::Report>,
    /// Comparisons with earlier runs.
    pub comparisons: Vec<Comparison>,
    /// What should have been there, and why it is not.
    pub absent: Vec<String>,
}

/// Plots of one run, under one heading.
struct Group {
    title: String,
    note: &'static str,
    plots: Vec<Plot>,
}

/// The page.
pub fn render(inputs: &Inputs) -> String {
    let groups = groups(inputs);
    let lines = groups.iter().flat_map(|group| &group.plots).filter_map(|plot| match &plot.shape {
        Shape::Lines { lines, .. } if draw::has_rivals(lines) => Some(lines),
        _ => None,
    });
    let palette = Palette::new(lines.flatten().map(|line| &*line.device));
    let sections = [
        ("summary", "Summary", summary::section(inputs)),
        ("overhead", "What virtualisation costs", overhead::section(inputs)),
        ("changes", "Changes", changes::section(&inputs.comparisons)),
        ("plots", "Plots", plots(&groups, &palette)),
        ("tables", "Tables", tables::section(inputs)),
        ("notes", "Notes", facts::notes(inputs)),
        ("environment", "Environment", facts::environment(inputs)),
        ("reproduce", "Reproduce", facts::reproduce(inputs)),
        ("data", "Data", facts::data(inputs)),
    ];
    let shown = || sections.iter().filter_map(|(id, name, body)| Some((id, name, body.as_ref()?)));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Tongtu vNIC: performance report" }
                // Or browsers would ask for one.
                link rel="icon" href="data:,";
                style { (PreEscaped(style())) }
            }
            body {
                header {
                    p.brand { "Tongtu vNIC" }
                    h1 { "Performance report" }
                    p.lead { (summary::lead(inputs)) }
                    nav aria-label="Parts of the page" {
                        ul { @for (id, name, _) in shown() { li { a href={ "#" (id) } { (name) } } } }
                    }
                }
                main {
                    @for (id, name, body) in shown() {
                        section id=(id) aria-labelledby={ (id) "-heading" } {
                            h2 id={ (id) "-heading" } { (name) }
                            (body)
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

/// The style sheet, without the comments that its readers do not need.
fn style() -> String {
    let mut rest = STYLE;
    let mut style = String::new();
    while let Some((before, after)) = rest.split_once("/*") {
        style += before;
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    style += rest;
    format!("{}@media (prefers-color-scheme:dark){{{}}}", style.trim_start(), palette::dark_rules())
}

fn groups(inputs: &Inputs) -> Vec<Group> {
    let benches = inputs.benches.iter();
    let benches = benches.map(|report| Group {
        title: title_of(&report.bench),
        note: "Marks and bars are medians. Half of all samples lie along the thin line through a mark.",
        plots: choose::of_bench(report),
    });
    let testbed = inputs.testbed.iter().map(|report| Group {
        title: TESTBED.into(),
        note: "Both axes are logarithmic where numbers lie far apart.",
        plots: plot::testbed::plots(report),
    });
    benches.chain(testbed).filter(|group| !group.plots.is_empty()).collect()
}

/// What the run of the testbed is called.
const TESTBED: &str = "Between two guests";

/// What a bench is called.
fn title_of(bench: &str) -> String {
    match bench {
        "memory" => "Memory that is not pinned".into(),
        "path" => "Data path".into(),
        wire::NAME => "Guests against bare verbs".into(),
        "testbed" => TESTBED.into(),
        other => other.into(),
    }
}

fn plots(groups: &[Group], palette: &Palette) -> Option<Markup> {
    if groups.is_empty() {
        return None;
    }
    Some(html! {
        @for group in groups {
            h3 { (group.title) }
            p.note { (group.note) }
            // Pictures of one height in a row.
            @for wanted in [true, false] {
                @let plots = group.plots.iter().filter(|plot| plot.has_axes() == wanted);
                @let figures = plots.map(|plot| plot::figure::figure(plot, palette)).collect::<Vec<_>>();
                @if !figures.is_empty() { div.plots { @for figure in &figures { (figure) } } }
            }
        }
    })
}

#[cfg(test)]
mod tests;
