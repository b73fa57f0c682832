// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What guests have over the hosts' own verbs, as a number for each operation, with its confidence and its goal.

use std::fmt;

use super::said::Operation;
use crate::bench::{Row, Verdict, table::number};

/// The most that the median latency of a guest may be, as a multiple of the bare one.
pub const LATENCY: f64 = 1.10;

/// The least that the bandwidth of a guest may be, as a part of the bare one.
pub const BANDWIDTH: f64 = 0.95;

const P50: &str = ": p50";
const WIDTH: &str = ", bandwidth";

/// What the rows of a median latency are called.
pub fn p50(operation: Operation) -> String {
    format!("{operation}{P50}")
}

/// What the rows of a bandwidth are called.
pub fn bandwidth(operation: Operation) -> String {
    format!("{operation}{WIDTH}")
}

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// This multiple of the bare one, at most.
    AtMost(f64),
    /// At least.
    AtLeast(f64),
}

/// A figure of guests, against the same one of the hosts' own verbs.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Operation, size and figure: "READ 8 B p50".
    pub what: String,
    /// Whose it is, as a device of a report.
    pub device: String,
    /// How many times the bare one.
    pub times: f64,
    /// Where that lies with 95 % confidence; `None` with too few rounds for it.
    pub within: Option<(f64, f64)>,
    /// What it has to be, if there is a goal.
    pub goal: Option<Goal>,
}

impl Line {
    /// Whether the goal is met; `None` without one.
    pub fn met(&self) -> Option<bool> {
        self.verdict().map(|verdict| verdict.met)
    }

    /// Whether the whole interval is on one side of the goal.
    fn is_certain(&self) -> bool {
        let bound = match self.goal {
            None => return true,
            Some(Goal::AtMost(bound) | Goal::AtLeast(bound)) => bound,
        };
        self.within.is_some_and(|(low, high)| high <= bound || bound <= low)
    }

    /// The goal as a report has it.
    pub fn verdict(&self) -> Option<Verdict> {
        let confidence = match self.within {
            Some((low, high)) => format!("95 %: {} to {}", number(low), number(high)),
            None => "too few rounds for an interval".into(),
        };
        let goal = format!("{}, {} over bare verbs ({confidence})", self.what, self.device);
        Some(match self.goal? {
            Goal::AtMost(most) => Verdict::at_most(goal, Some(self.times), most).timed(),
            Goal::AtLeast(least) => Verdict::at_least(goal, Some(self.times), least).timed(),
        })
    }

    /// The number with its confidence: "4.90x (4.61-5.20)".
    pub fn number(&self) -> String {
        match self.within {
            Some((low, high)) => {
                format!("{}x ({}-{})", number(self.times), number(low), number(high))
            }
            None => format!("{}x", number(self.times)),
        }
    }

    /// The goal in words, with whether it was met: "at most 1.10x: missed".
    pub fn judged(&self) -> String {
        let bound = match self.goal {
            None => return "no goal".into(),
            Some(Goal::AtMost(most)) => format!("at most {}x", number(most)),
            Some(Goal::AtLeast(least)) => format!("at least {}x", number(least)),
        };
        let word = if self.met() == Some(true) { "met" } else { "missed" };
        let open = if self.is_certain() { "" } else { ", not for certain" };
        format!("{bound}: {word}{open}")
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}; goal {}", self.what, self.device, self.number(), self.judged())
    }
}

/// A line for each row with a goal that was compared, in their order.
pub fn lines(rows: &[Row]) -> Vec<Line> {
    rows.iter().filter_map(line).collect()
}

fn line(row: &Row) -> Option<Line> {
    let compared = row.compared.as_ref()?;
    let (operation, figure, goal) = match row.subject.strip_suffix(P50) {
        Some(operation) => (operation, "p50", Goal::AtMost(LATENCY)),
        None => (row.subject.strip_suffix(WIDTH)?, "bandwidth", Goal::AtLeast(BANDWIDTH)),
    };
    Some(Line {
        what: format!("{operation} {} {figure}", row.case),
        device: row.device.clone(),
        times: compared.times,
        within: compared.within,
        goal: Some(goal),
    })
}

/// All lines for a terminal, and who could not be measured.
pub fn render(rows: &[Row]) -> String {
    let lines = lines(rows);
    let met = lines.iter().filter(|line| line.met() == Some(true)).count();
    let mut text = format!("Guests over bare verbs: {met} of {} goals met\n\n", lines.len());
    for line in lines {
        text += &format!("  {line}\n");
    }
    for (who, why) in not_run(rows) {
        text += &format!("  {who}: {why}\n");
    }
    text
}

/// Whoever could not be measured, and why: the devices of rows that say so.
pub fn not_run(rows: &[Row]) -> Vec<(String, String)> {
    let missing = rows.iter().filter(|row| row.figure.is_none());
    let missing = missing.filter_map(|row| Some((row, row.missing.as_ref()?)));
    missing.map(|(row, why)| (format!("{} ({})", row.device, row.case), why.clone())).collect()
}
