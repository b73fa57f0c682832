// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a reader has to know about the figures: notes, the machines, how to get them again, the data.

use std::fmt::Write;

use maud::{Markup, html};

use super::{Inputs, TESTBED, summary::day, title_of};
use crate::{bench, report::environment::commit_line};

/// Notes and warnings of all runs.
pub fn notes(inputs: &Inputs) -> Option<Markup> {
    let benches = inputs.benches.iter();
    let benches = benches.map(|report| {
        // Where there was no room for warnings, they were notes.
        let notes = report.notes.iter().filter(|note| !report.warnings.contains(note));
        (title_of(&report.bench), report.warnings.clone(), notes.cloned().collect::<Vec<_>>())
    });
    let testbed = inputs.testbed.iter().map(|report| {
        let checks = report.checks.iter().map(ToString::to_string);
        let notes = report.notes.iter().cloned().chain(checks).collect();
        (TESTBED.to_string(), report.warnings.clone(), notes)
    });
    let all = benches.chain(testbed);
    let all = all.filter(|(_, warnings, notes)| !warnings.is_empty() || !notes.is_empty());
    let all = all.collect::<Vec<(String, Vec<String>, Vec<String>)>>();
    if all.is_empty() {
        return None;
    }
    Some(html! {
        @for (title, warnings, notes) in &all {
            h3 { (title) }
            @if !warnings.is_empty() { ul.warnings { @for warning in warnings { li { (warning) } } } }
            @if !notes.is_empty() { ul.notes { @for note in notes { li { (note) } } } }
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
        ("conditions", machine.conditions.line()),
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
        let usual = match report.bench.as_str() {
            "memory" => "cargo xtask bench memory",
            bench::wire::NAME => "cargo xtask testbed --wire rxe",
            _ => "cargo xtask bench",
        };
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
    let benches = inputs.benches.iter().map(|report| {
        let name = format!("{}.json", file_name(&report.bench));
        (name, &report.machine.date, serde_json::to_string(report))
    });
    let testbed = inputs.testbed.iter().map(|report| {
        ("testbed.json".into(), &report.environment.date, serde_json::to_string(report))
    });
    let all = benches.chain(testbed);
    // Every part of a report can be serialised.
    let all = all.filter_map(|(name, date, json)| Some((name, date, json.ok()?)));
    let all = all.collect::<Vec<(String, &String, String)>>();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_hold_any_text() {
        assert_eq!(encoded("{\"a\": 1}\n"), "%7B%22a%22:%201%7D%0A");
        assert_eq!(encoded("µ\"'<#&%"), "%C2%B5%22%27%3C%23%26%25");
        assert_eq!(file_name("../data path\""), "---data-path-");
    }
}
