// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What all rounds have found, and the rows that it makes.

use std::collections::HashMap;

use super::{
    overhead,
    said::{Operation, Said},
    subject::Subject,
};
use crate::{
    bench::{Findings, Row, Samples, Unit},
    compare::rank,
    measure::sizes,
};

/// Messages of more bytes are told as bandwidth, others as a rate.
const SMALL: u64 = 64;

/// What a figure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    P50(Operation, u64),
    P99(Operation, u64),
    Throughput(Operation, u64),
    PacketsAlone(Operation, u64),
    PacketsTogether(Operation, u64),
    BusyAlone(Operation, u64),
    BusyTogether(Operation, u64),
    Connect,
    Register(u64),
    First,
    Again,
}

impl Key {
    fn unit(self) -> Unit {
        match self {
            Self::Throughput(_, bytes) if bytes > SMALL => Unit::BytesPerSecond,
            Self::Throughput(..) => Unit::PerSecond,
            Self::PacketsAlone(..) | Self::PacketsTogether(..) => Unit::Count,
            _ => Unit::Nanoseconds,
        }
    }

    /// What a row calls it, and its case.
    fn names(self) -> (String, String) {
        let text = sizes::text;
        match self {
            Self::P50(operation, bytes) => (overhead::p50(operation), text(bytes)),
            Self::P99(operation, bytes) => (format!("{operation}: p99"), text(bytes)),
            Self::Throughput(operation, bytes) if bytes > SMALL => {
                (overhead::bandwidth(operation), text(bytes))
            }
            Self::Throughput(operation, bytes) => (format!("{operation}, messages"), text(bytes)),
            Self::PacketsAlone(operation, bytes) => {
                (format!("{operation}, packets, one at a time"), text(bytes))
            }
            Self::PacketsTogether(operation, bytes) => {
                (format!("{operation}, packets, several at a time"), text(bytes))
            }
            Self::BusyAlone(operation, bytes) => {
                (format!("{operation}, processor time, one at a time"), text(bytes))
            }
            Self::BusyTogether(operation, bytes) => {
                (format!("{operation}, processor time, several at a time"), text(bytes))
            }
            Self::Connect => ("connect".into(), "made, and ready to send".into()),
            Self::Register(bytes) => ("register".into(), text(bytes)),
            Self::First => ("8 B WRITE to a page".into(), "never touched".into()),
            Self::Again => ("8 B WRITE to a page".into(), "touched before".into()),
        }
    }

    /// Its place in the table: operations in their order, and the rest behind them.
    fn order(self) -> (usize, usize) {
        let (operation, figure) = match self {
            Self::P50(operation, _) => (operation, 0),
            Self::P99(operation, _) => (operation, 1),
            Self::Throughput(operation, bytes) => (operation, if bytes > SMALL { 3 } else { 2 }),
            Self::PacketsAlone(operation, _) => (operation, 4),
            Self::PacketsTogether(operation, _) => (operation, 5),
            Self::BusyAlone(operation, _) => (operation, 6),
            Self::BusyTogether(operation, _) => (operation, 7),
            Self::Connect => return (Operation::ALL.len(), 0),
            Self::Register(_) => return (Operation::ALL.len(), 1),
            Self::First | Self::Again => return (Operation::ALL.len(), 2),
        };
        let place = Operation::ALL.iter().position(|other| *other == operation);
        (place.unwrap_or_default(), figure)
    }

    /// Its place among others of its name.
    fn place(self) -> Option<f64> {
        match self {
            Self::P50(_, bytes)
            | Self::P99(_, bytes)
            | Self::Throughput(_, bytes)
            | Self::PacketsAlone(_, bytes)
            | Self::PacketsTogether(_, bytes)
            | Self::BusyAlone(_, bytes)
            | Self::BusyTogether(_, bytes)
            | Self::Register(bytes) => Some(bytes as f64),
            Self::Connect | Self::First | Self::Again => None,
        }
    }
}

/// The figures of all rounds so far.
#[derive(Default)]
pub struct Results {
    samples: HashMap<(Key, Subject), Samples>,
    /// In the order in which they came first.
    keys: Vec<Key>,
}

/// More digits would only be noise.
fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Results {
    /// Adds what a round of a subject has said.
    pub fn add(&mut self, subject: Subject, said: &[Said]) {
        let floats = |nanos: &[u64]| nanos.iter().map(|nanos| *nanos as f64).collect();
        for said in said {
            match said {
                Said::Latency { operation, bytes, p50, p99, busy, packets, .. } => {
                    let at = (*operation, *bytes);
                    self.push(subject, Key::P50(at.0, at.1), vec![*p50 as f64]);
                    self.push(subject, Key::P99(at.0, at.1), vec![*p99 as f64]);
                    self.push(subject, Key::BusyAlone(at.0, at.1), vec![*busy]);
                    if let Some(packets) = packets {
                        self.push(
                            subject,
                            Key::PacketsAlone(at.0, at.1),
                            vec![hundredths(*packets)],
                        );
                    }
                }
                Said::Throughput { operation, bytes, count, nanos, busy, packets, .. } => {
                    let key = Key::Throughput(*operation, *bytes);
                    let each = if key.unit() == Unit::PerSecond { 1 } else { *bytes };
                    let moved = (*count * each) as f64;
                    self.push(subject, key, vec![moved / (*nanos).max(1) as f64 * 1e9]);
                    self.push(subject, Key::BusyTogether(*operation, *bytes), vec![*busy]);
                    if let Some(packets) = packets {
                        let key = Key::PacketsTogether(*operation, *bytes);
                        self.push(subject, key, vec![hundredths(*packets)]);
                    }
                }
                Said::Connected { nanos } => self.push(subject, Key::Connect, floats(nanos)),
                Said::Registered { bytes, nanos } => {
                    self.push(subject, Key::Register(*bytes), floats(nanos));
                }
                Said::Touched { first, again } => {
                    self.push(subject, Key::First, floats(first));
                    self.push(subject, Key::Again, floats(again));
                }
                Said::End => {}
            }
        }
    }

    fn push(&mut self, subject: Subject, key: Key, round: Vec<f64>) {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
        let unit = key.unit();
        let samples = self.samples.entry((key, subject)).or_insert_with(|| Samples::new(unit));
        samples.push_round(round);
    }

    /// Rows of all, and how those of guests compare with the hosts' own.
    pub fn findings(&self) -> Findings {
        let mut keys = self.keys.clone();
        keys.sort_by_key(|key| key.order());
        let mut findings = Findings::default();
        for key in keys {
            for subject in Subject::measured() {
                findings.rows.extend(self.row(key, subject));
            }
        }
        for subject in Subject::ALL {
            let Some(why) = subject.not_run() else { continue };
            let row = Row::new("all of the above", subject.ends(), None);
            findings.rows.push(row.over(subject.name()).missing(why));
        }
        findings.verdicts =
            overhead::lines(&findings.rows).iter().filter_map(overhead::Line::verdict).collect();
        findings
    }

    fn row(&self, key: Key, subject: Subject) -> Option<Row> {
        let samples = self.samples.get(&(key, subject))?;
        let (name, case) = key.names();
        let mut row = Row::of(&name, case, samples).over(subject.name());
        row.at = key.place();
        let bare = self.samples.get(&(key, Subject::Bare)).filter(|_| subject != Subject::Bare);
        Some(match bare {
            None => row,
            Some(bare) => {
                let (bare, own) = (bare.round_medians(), samples.round_medians());
                let shift = rank::shift(&bare, &own, |bare, own| own / bare);
                let shift = shift.filter(|shift| shift.estimate.is_finite());
                match shift {
                    Some(shift) => row.times(Some(shift.estimate), Subject::Bare.name()).within(
                        shift.interval.filter(|(low, high)| low.is_finite() && high.is_finite()),
                    ),
                    None => row,
                }
            }
        })
    }
}
