// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a reader has to know about the figures: notes, the machines, how to get them again, the data.

use std::fmt::Write;

use maud::{Markup, html};
use serde_json::Value;

use super::{Inputs, TESTBED, summary::day, title_of};
use crate::{bench, report::environment::commit_line};

/// Notes and warnings of all runs.
pub fn notes(inputs: &Inputs) -> Option<Markup> {
    let benches =
        inputs.benches.iter().map(|report| (title_of(&report.bench), report.notes.clone()));
    let testbed = inputs.testbed.iter().map(|report| {
        let checks = report.checks.iter().map(ToString::to_string);
        (TESTBED.to_string(), report.notes.iter().cloned().chain(checks).collect())
    });
    let all = benches.chain(testbed).filter(|(_, notes)| !notes.is_empty());
    let all = all.collect::<Vec<(String, Vec<String>)>>();
    if all.is_empty() {
        return None;
    }
    Some(html! {
        @for (title, notes) in &all {
            h3 { (title) }
            ul.notes { @for note in notes { li { (note) } } }
        }
    })
}

/// Where each run took place.
pub fn environment(inputs: &Inputs) -> Option<Markup> {
    let benches = inputs.benches.iter().map(|report| (title_of(&report.bench), machine(report)));
    let testbed = inputs.testbed.iter();
    let testbed = testbed.map(|report| (TESTBED.to_string(), report.environment.lines()));
    let all = benches.chain(testbed).collect::<Vec<_>>();
    if all.is_empty() {
        return None;
    }
    Some(html! {
        div.sides {
            @for (title, lines) in &all {
                div {
                    h3 { (title) }
                    dl { @for (name, value) in lines { dt { (name) } dd { (value) } } }
                }
            }
        }
    })
}

fn machine(report: &bench::Report) -> Vec<(String, String)> {
    let machine = &report.machine;
    let length = if report.quick { "a quick run, whose figures say less" } else { "a whole run" };
    let mut lines = vec![
        ("date", machine.date.clone()),
        ("CPU", format!("{}, {} cores", machine.cpu, machine.cores)),
        ("memory", format!("{} MiB", machine.memory_mib)),
        ("kernel", format!("Linux {}", machine.kernel)),
        ("load before", format!("{:.2}", machine.load)),
        (
            "jitter",
            format!("{:.2}: slowest quarter over quickest of equal pieces of work", machine.jitter),
        ),
        ("effort", format!("{length}, {:.0} s", report.seconds)),
    ];
    if let Some(commit) = &report.commit {
        lines.insert(1, ("commit", commit.clone()));
    }
    lines.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// The commands that give these figures again.
pub fn reproduce(inputs: &Inputs) -> Option<Markup> {
    let benches = inputs.benches.iter().map(|report| {
        let usual =
            if report.bench == "memory" { "cargo xtask bench memory" } else { "cargo xtask bench" };
        (title_of(&report.bench), report.commit.clone(), report.command.clone(), usual)
    });
    let testbed = inputs.testbed.iter().map(|report| {
        let environment = &report.environment;
        let commit = Some(commit_line(&environment.commit, environment.modified));
        (TESTBED.to_string(), commit, report.command.clone(), "cargo xtask testbed")
    });
    let all = benches.chain(testbed).collect::<Vec<_>>();
    if all.is_empty() {
        return None;
    }
    Some(html! {
        p { "On Debian 12 or 13 with Rust, as root, in a clone of this project; the first run sets the machine up:" }
        @for (title, commit, command, usual) in &all {
            h3 { (title) }
            @if let Some(commit) = commit { p.note { "at commit " code { (commit) } } }
            pre tabindex="0" { code { (command.as_deref().unwrap_or(usual)) } }
        }
        p {
            "Compare with these figures later: keep the data below as a file, and run the same command with "
            code { "--compare FILE" } "; " code { "--fail-above PERCENT" } " makes a loss beyond noise an error."
        }
    })
}

/// The reports themselves, to keep as files.
pub fn data(inputs: &Inputs) -> Option<Markup> {
    let json =
        |value: Result<Value, serde_json::Error>| value.map(|v| v.to_string()).unwrap_or_default();
    let benches = inputs.benches.iter().map(|report| {
        (
            format!("{}.json", file_name(&report.bench)),
            &report.machine.date,
            json(serde_json::to_value(report)),
        )
    });
    let testbed = inputs.testbed.iter().map(|report| {
        ("testbed.json".to_string(), &report.environment.date, json(serde_json::to_value(report)))
    });
    let all = benches.chain(testbed).collect::<Vec<_>>();
    if all.is_empty() {
        return None;
    }
    Some(html! {
        p { "The figures of this page, for programs:" }
        ul.files {
            @for (name, date, json) in &all {
                li {
                    a.file download=(name) href={ "data:application/json;charset=utf-8," (encoded(json)) } { (name) }
                    " " span.count { (day(date)) ", " (json.len().div_ceil(1024)) " KiB" }
                }
            }
        }
    })
}

/// A name for a file, whatever a bench is called.
fn file_name(bench: &str) -> String {
    bench.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// For a link: all but the plainest characters as their codes.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b',' | b':' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}
