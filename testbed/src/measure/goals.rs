// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many times better than rxe over virtio-net the vNIC has to be, in the same guests and the same run.

use super::{Measurement, Program, Transport, Values, sizes};
use crate::bench::{Samples, Unit, Verdict};

/// Which number of a program a goal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// Median time.
    Median,
    /// Bytes in a second.
    Bandwidth,
    /// Messages in a second.
    MessageRate,
}

/// One goal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// The program that measures it.
    pub program: Program,
    /// The size of its messages.
    pub bytes: u64,
    /// Its number.
    pub number: Number,
    /// How many times better the vNIC has to be.
    pub times: f64,
}

/// The size of messages that are counted, and not their bytes.
pub const SMALL: u64 = 64;

/// All of them, in the order of the programs.
pub const GOALS: [Goal; 5] = [
    Goal { program: Program::WriteLat, bytes: 8, number: Number::Median, times: 10.0 },
    Goal { program: Program::WriteBw, bytes: 64 << 10, number: Number::Bandwidth, times: 30.0 },
    Goal { program: Program::SendBw, bytes: 4 << 10, number: Number::Bandwidth, times: 10.0 },
    Goal { program: Program::WriteBw, bytes: SMALL, number: Number::MessageRate, times: 10.0 },
    Goal { program: Program::SendBw, bytes: SMALL, number: Number::MessageRate, times: 10.0 },
];

/// Whether a goal is about these messages.
pub fn concern(program: Program, bytes: u64) -> bool {
    GOALS.iter().any(|goal| goal.program == program && goal.bytes == bytes)
}

impl Goal {
    /// What is compared, in words: "ib_write_lat 8 B, median: rxe over vNIC".
    pub fn text(&self) -> String {
        let Self { program, bytes, number, .. } = self;
        let (vnic, rxe) = (Transport::Vnic, Transport::Rxe);
        let (name, more, less) = match number {
            Number::Median => ("median", rxe, vnic),
            Number::Bandwidth => ("bandwidth", vnic, rxe),
            Number::MessageRate => ("message rate", vnic, rxe),
        };
        format!("{program} {}, {name}: {more} over {less}", sizes::text(*bytes))
    }

    /// Holds what was measured against the goal: the ratio within a round, in the median round. Missed if
    /// either is not there.
    pub fn verdict(&self, vnic: Option<&Measurement>, rxe: Option<&Measurement>) -> Verdict {
        let found = vnic.zip(rxe).and_then(|(vnic, rxe)| times_better(vnic, rxe));
        Verdict::at_least(self.text(), found, self.times).timed()
    }
}

/// How many times better `one` is than `other`: the ratio within a round, in the median round. Its sizes
/// are the same, so that messages have the ratio of their bytes.
pub fn times_better(one: &Measurement, other: &Measurement) -> Option<f64> {
    let [mine, theirs] = [one, other].map(|measurement| {
        let mut samples = Samples::new(Unit::Count);
        measurement.rounds.iter().for_each(|&number| samples.push_round(vec![number]));
        samples
    });
    match one.values {
        Values::Latency { .. } | Values::RoundTrip { .. } => theirs.against(&mine),
        Values::Bandwidth { .. } => mine.against(&theirs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bandwidth(transport: Transport, rounds: &[f64]) -> Measurement {
        let taken = rounds.iter().map(|&average| {
            let values = Values::Bandwidth { average, message_rate: None };
            Measurement::new(Some(Program::WriteBw), transport, 65536, 100, values)
        });
        Measurement::of_rounds(taken.collect()).unwrap()
    }

    #[test]
    fn a_goal_is_held_against_the_median_round() {
        // The last round was slow for both, and the first for one.
        let vnic = bandwidth(Transport::Vnic, &[4000.0, 3200.0, 400.0]);
        let rxe = bandwidth(Transport::Rxe, &[10.0, 80.0, 10.0]);
        let verdict = GOALS[1].verdict(Some(&vnic), Some(&rxe));
        assert_eq!(verdict.goal, "ib_write_bw 64 KiB, bandwidth: vNIC over rxe");
        assert_eq!((verdict.found, verdict.limit, verdict.met), (Some(40.0), 30.0, true));
        assert!(verdict.timed && verdict.at_least);
        let lower = GOALS[1].verdict(Some(&rxe), Some(&vnic));
        assert!(!lower.met && lower.found == Some(0.025));
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let vnic = bandwidth(Transport::Vnic, &[4000.0]);
        for verdict in [GOALS[1].verdict(Some(&vnic), None), GOALS[1].verdict(None, None)] {
            assert!(!verdict.met && verdict.found.is_none());
        }
        let idle = bandwidth(Transport::Rxe, &[0.0]);
        assert!(!GOALS[1].verdict(Some(&vnic), Some(&idle)).met, "no ratio to nothing");
    }

    #[test]
    fn times_are_the_other_way_round() {
        let latency = |transport, average| {
            let values = Values::RoundTrip { average };
            let program = Some(Program::RcPingpong);
            Measurement::of_rounds(vec![Measurement::new(program, transport, 8, 5, values)])
                .unwrap()
        };
        let (vnic, rxe) = (latency(Transport::Vnic, 2.0), latency(Transport::Rxe, 50.0));
        assert_eq!(times_better(&vnic, &rxe), Some(25.0));
        assert_eq!(GOALS[0].text(), "ib_write_lat 8 B, median: rxe over vNIC");
        assert!(concern(Program::SendBw, 64) && !concern(Program::SendLat, 64));
    }
}
