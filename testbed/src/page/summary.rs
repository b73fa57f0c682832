// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What came out, at a glance: goals with their numbers, and the ratios between guests.

use maud::{Markup, html};

use super::{Inputs, text, title_of};
use crate::{
    bench::Verdict,
    compare::table::counts,
    measure::{Measurement, Program, Transport, Values, sizes},
    report::{Report, table},
};

/// A line below the title: when and where.
pub fn lead(inputs: &Inputs) -> String {
    let bench = inputs.benches.iter().map(|report| (&report.machine.date, &report.machine.cpu));
    let testbed = inputs.testbed.iter().map(|report| &report.environment);
    let testbed = testbed.map(|environment| (&environment.date, &environment.cpu));
    let newest = bench.chain(testbed).max_by_key(|(date, _)| (*date).clone());
    newest.map_or("Nothing has been measured yet.".into(), |(date, cpu)| {
        format!("Measured on {cpu}, last on {}.", day(date))
    })
}

/// The day and the minute of a date, for people.
pub fn day(date: &str) -> String {
    let minute = date.get(..16).map(|minute| minute.replace('T', " "));
    minute.filter(|_| date.ends_with('Z')).map_or(date.into(), |minute| format!("{minute} UTC"))
}

/// Goals of all runs, and highlights of the testbed.
pub fn section(inputs: &Inputs) -> Option<Markup> {
    let benches = inputs.benches.iter();
    let benches = benches.map(|report| (title_of(&report.bench), &report.verdicts, Vec::new()));
    let testbed = inputs.testbed.iter();
    let testbed = testbed.map(|run| (super::TESTBED.to_string(), &run.verdicts, highlights(run)));
    let runs = benches.chain(testbed);
    let runs = runs.filter(|(_, goals, highlights)| !goals.is_empty() || !highlights.is_empty());
    let runs = runs.collect::<Vec<_>>();
    let failure = inputs.testbed.as_ref().and_then(|report| report.failure.as_ref());
    if runs.is_empty() && failure.is_none() && inputs.absent.is_empty() {
        return None;
    }
    let all = runs.iter().flat_map(|(_, goals, _)| *goals).collect::<Vec<_>>();
    let met = all.iter().filter(|verdict| verdict.met).count();
    Some(html! {
        @for absent in &inputs.absent { p.alert { (absent) } }
        @if let Some(failure) = failure { p.alert { "The run between guests ended early: " (failure) } }
        @if !all.is_empty() {
            p.score {
                b.big { (met) " of " (all.len()) } " goals met"
                @if met < all.len() { ", " b.missed { (all.len() - met) " missed" } }
            }
        }
        @for comparison in &inputs.comparisons {
            p {
                (title_of(&comparison.new.bench)) ", " a href="#changes" { "since an earlier run" } ": "
                (counts(comparison))
            }
        }
        @for (title, goals, highlights) in &runs {
            h3 { (title) }
            @let lanes = goals.iter().any(|verdict| verdict.lane != goals[0].lane);
            ul.goals {
                // What was missed is what a reader looks for.
                @for verdict in goals.iter().filter(|verdict| !verdict.met) { (goal(verdict, lanes)) }
                @for verdict in goals.iter().filter(|verdict| verdict.met) { (goal(verdict, lanes)) }
                @for highlight in highlights { (card(highlight)) }
            }
        }
    })
}

fn goal(verdict: &Verdict, several_lanes: bool) -> Markup {
    let Verdict { lane, goal, found, limit, at_least, met, .. } = verdict;
    let (class, word) = if *met { ("goal met", "met") } else { ("goal missed", "missed") };
    let bound = if *at_least { "at least" } else { "at most" };
    html! {
        li class=(class) {
            p.what { (text::sentence(goal)) @if several_lanes { span.lane { " " (lane) } } }
            p.number {
                b { @match found { Some(found) => (text::number(*found)), None => "no number" } }
                span.limit { (bound) " " (text::number(*limit)) }
            }
            div.foot {
                @if let Some(found) = found { (meter(*found, *limit, *at_least)) }
                span.tag { (word) }
            }
        }
    }
}

/// Where the number lies: the limit is in the middle, and what is better on the left of it.
fn meter(found: f64, limit: f64, at_least: bool) -> Markup {
    if limit <= 0.0 || !found.is_finite() || found < 0.0 {
        return html! {};
    }
    let part = if at_least { limit / found.max(f64::MIN_POSITIVE) } else { found / limit };
    // A factor of four to either side; what is further away lies at the end.
    let place = (50.0 + 25.0 * part.max(f64::MIN_POSITIVE).log2()).clamp(2.0, 98.0);
    html! { div.meter aria-hidden="true" { i style={ "left:" (format!("{place:.0}")) "%" } {} } }
}

/// A number that stands for a program.
struct Highlight {
    what: String,
    number: String,
    ratios: Vec<String>,
}

fn card(highlight: &Highlight) -> Markup {
    html! {
        li.goal {
            p.what { (highlight.what) }
            p.number { b { (highlight.number) } }
            p.ratios { @for ratio in &highlight.ratios { span.lane { (ratio) } } }
        }
    }
}

/// The sizes that say most: small messages where time counts, large ones where bandwidth does.
const HIGHLIGHTS: [(Program, u64); 6] = [
    (Program::WriteLat, 8),
    (Program::SendLat, 8),
    (Program::ReadLat, 8),
    (Program::WriteBw, 64 << 10),
    (Program::SendBw, 4 << 10),
    (Program::ReadBw, 64 << 10),
];

fn highlights(report: &Report) -> Vec<Highlight> {
    HIGHLIGHTS.iter().filter_map(|&(program, wanted)| highlight(report, program, wanted)).collect()
}

fn highlight(report: &Report, program: Program, wanted: u64) -> Option<Highlight> {
    let found = table::of(report, program, Transport::Vnic);
    let (bytes, vnic) = *found.iter().min_by_key(|(bytes, _)| bytes.abs_diff(wanted))?;
    let ratio = |other: Transport| {
        let theirs = table::of(report, program, other);
        let (_, theirs) = theirs.into_iter().find(|(size, _)| *size == bytes)?;
        let times = table::times_better(vnic, theirs)?;
        times.is_finite().then(|| format!("{} x {other}", text::number(times)))
    };
    Some(Highlight {
        what: format!("{program}, {}", sizes::text(bytes)),
        number: number(vnic),
        ratios: [Transport::Rxe, Transport::Tcp].into_iter().filter_map(ratio).collect(),
    })
}

fn number(measurement: &Measurement) -> String {
    let value = text::number(measurement.values.primary());
    match measurement.values {
        Values::Bandwidth { .. } => format!("{value} MiB/s"),
        Values::Latency { .. } | Values::RoundTrip { .. } => format!("{value} µs"),
    }
}
