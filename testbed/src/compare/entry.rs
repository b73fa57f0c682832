// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The figures of a report, of whatever kind, as they are compared.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    bench::{self, Unit},
    error::{Doing, Error, Result},
    measure::{Program, Values, sizes},
    report,
};

/// What the testbed is called among the benches.
pub const TESTBED: &str = "testbed";

/// A figure that can be compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where it was measured.
    pub lane: String,
    /// What was measured.
    pub subject: String,
    /// The case of it.
    pub case: String,
    /// Over which device, where there are several.
    pub device: String,
    /// What the numbers count.
    pub unit: Unit,
    /// The figure.
    pub value: f64,
    /// Its median in each round, of all runs; empty if it was measured once.
    pub rounds: Vec<f64>,
    /// The figure in each run, if there are several.
    pub runs: Vec<f64>,
}

impl Entry {
    /// Names the figure in a line.
    pub fn name(&self) -> String {
        name(&self.lane, &self.subject, &self.case, &self.device)
    }

    /// How far runs are apart, as a part of the least; `None` unless there are several, all positive.
    pub fn spread(&self) -> Option<f64> {
        let least = self.runs.iter().copied().min_by(f64::total_cmp)?;
        let most = self.runs.iter().copied().max_by(f64::total_cmp)?;
        (self.runs.len() > 1 && least > 0.0).then(|| most / least - 1.0)
    }
}

/// Several runs of the same, as one: with the rounds of all of them, and the median of their figures.
/// `None` of no run.
pub fn together(runs: Vec<(Run, Vec<Entry>)>) -> Option<(Run, Vec<Entry>)> {
    let mut runs = runs.into_iter();
    let (mut run, mut all) = runs.next()?;
    all.iter_mut().for_each(|entry| entry.runs = vec![entry.value]);
    for (other, entries) in runs {
        run.count += 1;
        if other.machine != run.machine && !run.machine.ends_with(" and others") {
            run.machine += " and others";
        }
        run.date = run.date.max(other.date);
        run.quick |= other.quick;
        run.warnings.extend(other.warnings);
        for entry in entries {
            let same = all.iter_mut().find(|one| {
                one.runs.len() + 1 == run.count
                    && one.unit == entry.unit
                    && one.name() == entry.name()
            });
            // What only some runs have can be told only of these.
            match same {
                Some(one) => {
                    one.rounds.extend(entry.rounds);
                    one.runs.push(entry.value);
                }
                None => all.push(Entry { runs: vec![entry.value], ..entry }),
            }
        }
    }
    run.warnings.sort();
    run.warnings.dedup();
    for entry in &mut all {
        let mut values = entry.runs.clone();
        values.sort_unstable_by(f64::total_cmp);
        entry.value = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    }
    Some((run, all))
}

pub(super) fn name(lane: &str, subject: &str, case: &str, device: &str) -> String {
    let parts = [subject, case, device].into_iter().filter(|part| !part.is_empty());
    let name = parts.collect::<Vec<_>>().join(", ");
    if lane.is_empty() { name } else { format!("{name} ({lane})") }
}

/// Which run it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Name of the bench.
    pub bench: String,
    /// When it began, in UTC; of several runs, the last.
    pub date: String,
    /// How many runs are taken together.
    #[serde(default = "one")]
    pub count: usize,
    /// The machine, in a line.
    pub machine: String,
    /// Whether it was cut short on request.
    pub quick: bool,
    /// Why its figures are to be doubted.
    pub warnings: Vec<String>,
}

fn one() -> usize {
    1
}

impl Run {
    /// When it was: "2001-02-03T04:05:06Z", "3 runs until ...".
    pub fn when(&self, date: &str) -> String {
        if self.count == 1 { date.into() } else { format!("{} runs until {date}", self.count) }
    }

    /// Fails if this is not a run of `bench`.
    ///
    /// # Errors
    /// When it is of another one, of which no figure would be found again.
    pub fn check(&self, bench: &str) -> Result<()> {
        if self.bench == bench {
            return Ok(());
        }
        let what = format!("the earlier run is of `{}`, and the new one of `{bench}`", self.bench);
        Err(Error::unfit(what, "Name the JSON of a run of the same command"))
    }
}

/// A report that was kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    /// Of `cargo xtask bench`.
    Bench(Box<bench::Report>),
    /// Of `cargo xtask testbed`.
    Testbed(Box<report::Report>),
}

impl Kept {
    /// Reads a report of either kind.
    ///
    /// # Errors
    /// When the file cannot be read, or is no report that this version of the project understands.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).at("read", path)?;
        Self::parse(&text).map_err(|why| {
            Error::unfit(
                format!("{} {why}", path.display()),
                "Name the JSON of an earlier run: of `cargo xtask bench --json FILE`, or from target/testbed",
            )
        })
    }

    fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let value = serde_json::from_slice::<Value>(text);
        let value = value.map_err(|error| format!("is no JSON: {error}"))?;
        let bench = value.get("bench").is_some();
        let known = if bench { bench::report::SCHEMA } else { report::SCHEMA };
        match value.get("schema").and_then(Value::as_u64) {
            None => return Err("is no report".into()),
            Some(schema) if schema != u64::from(known) => {
                return Err(format!("has schema {schema}, and this version reads {known}"));
            }
            Some(_) => {}
        }
        let report = if bench {
            serde_json::from_value(value).map(|report| Self::Bench(Box::new(report)))
        } else {
            serde_json::from_value(value).map(|report| Self::Testbed(Box::new(report)))
        };
        report.map_err(|error| format!("is no report: {error}"))
    }

    /// What can be compared.
    pub fn entries(&self) -> (Run, Vec<Entry>) {
        match self {
            Self::Bench(report) => of_bench(report),
            Self::Testbed(report) => of_testbed(report),
        }
    }
}

/// What can be compared of a bench.
pub fn of_bench(report: &bench::Report) -> (Run, Vec<Entry>) {
    let run = Run {
        bench: report.bench.clone(),
        date: report.machine.date.clone(),
        count: 1,
        machine: report.machine.line(),
        quick: report.quick,
        warnings: report.warnings.clone(),
    };
    let entries = report.rows.iter().filter_map(|row| {
        let figure = row.figure?;
        Some(Entry {
            lane: row.lane.clone(),
            subject: row.subject.clone(),
            case: row.case.clone(),
            device: row.device.clone(),
            unit: figure.unit,
            value: figure.median,
            rounds: row.rounds.clone(),
            runs: Vec::new(),
        })
    });
    (run, entries.collect())
}

/// Nanoseconds of the unit in which programs tell times.
const MICRO: f64 = 1e3;

/// Bytes of the unit in which they tell bandwidths.
const MEBI: f64 = (1 << 20) as f64;

/// What can be compared of a run of the testbed: medians, 99th percentiles and mean bandwidths.
pub fn of_testbed(report: &report::Report) -> (Run, Vec<Entry>) {
    let environment = &report.environment;
    let run = Run {
        bench: TESTBED.into(),
        date: environment.date.clone(),
        count: 1,
        machine: format!(
            "{}, {} cores, {} MiB, Linux {}; guests of Linux {} under {}",
            environment.cpu,
            environment.cores,
            environment.memory_mib,
            environment.host_kernel,
            environment.guest_kernel,
            environment.accelerator
        ),
        quick: false,
        warnings: report.warnings.clone(),
    };
    let entries = report.measurements.iter().flat_map(|measurement| {
        let subject = measurement.program.map_or_else(
            || {
                if matches!(measurement.values, Values::Bandwidth { .. }) {
                    "stream"
                } else {
                    "ping-pong"
                }
            },
            Program::name,
        );
        let entry = |what: &str, unit, value, rounds| Entry {
            lane: String::new(),
            subject: format!("{subject} {what}"),
            case: sizes::text(measurement.bytes),
            device: measurement.transport.to_string(),
            unit,
            value,
            rounds,
            runs: Vec::new(),
        };
        // A round alone knows no noise.
        let rounds = Some(&measurement.rounds).filter(|rounds| rounds.len() > 1);
        let rounds = |scale: f64| rounds.into_iter().flatten().map(|value| value * scale).collect();
        match measurement.values {
            Values::Latency { p50, p99, .. } => vec![
                entry("p50", Unit::Nanoseconds, p50 * MICRO, rounds(MICRO)),
                entry("p99", Unit::Nanoseconds, p99 * MICRO, Vec::new()),
            ],
            Values::RoundTrip { average } => {
                vec![entry("mean", Unit::Nanoseconds, average * MICRO, rounds(MICRO))]
            }
            Values::Bandwidth { average, .. } => {
                vec![entry("mean", Unit::BytesPerSecond, average * MEBI, rounds(MEBI))]
            }
        }
    });
    (run, entries.collect())
}

/// Why two runs compare badly.
pub(super) fn warnings(old: &Run, new: &Run) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.machine != new.machine {
        warnings.push(format!(
            "the runs are of different machines, which is a change by itself: {} before, {} now",
            old.machine, new.machine
        ));
    }
    if old.quick != new.quick {
        let (quick, full) = if old.quick { ("old", "new") } else { ("new", "old") };
        warnings.push(format!(
            "the {quick} run was a quick one and the {full} one was not: quick runs say less, and may \
             warm less up"
        ));
    }
    for (which, run) in [("old", old), ("new", new)] {
        warnings.extend(run.warnings.iter().map(|warning| format!("{which} run: {warning}")));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_report_is_told_from_one() {
        for (text, why) in [
            ("{", "no JSON"),
            ("{}", "is no report"),
            (r#"{"schema": 1, "bench": "x"}"#, "is no report: missing field"),
            (r#"{"schema": 99, "bench": "x"}"#, "has schema 99"),
            (r#"{"schema": 99}"#, "this version reads 1"),
            ("[1]", "is no report"),
        ] {
            let error = Kept::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let error = Kept::read(Path::new("/no/such/file")).unwrap_err().to_string();
        assert!(error.contains("cannot read /no/such/file"), "{error}");
    }

    #[test]
    fn names_leave_out_what_is_empty() {
        assert_eq!(name("", "a", "", "b"), "a, b");
        assert_eq!(name("here", "a", "c", ""), "a, c (here)");
    }
}
