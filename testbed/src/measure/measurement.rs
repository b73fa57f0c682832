// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One measurement, whatever program made it.

use serde::{Deserialize, Serialize};

use super::{
    cpu::CpuTime,
    program::{Program, Transport},
};
use crate::workload::{
    perftest::{Bandwidth, Latency},
    qperf::Stream,
    tcp::PingPong,
};

/// What a program measured, in one run or the median one of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The program whose row this is. For TCP, which other programs measure, `None`.
    pub program: Option<Program>,
    /// Over what it ran.
    pub transport: Transport,
    /// Size of a message.
    pub bytes: u64,
    /// Number of operations measured.
    pub iterations: u64,
    /// The numbers.
    #[serde(flatten)]
    pub values: Values,
    /// The number that is compared, of each round in which it was measured.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rounds: Vec<f64>,
    /// Processor time of an operation, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu: Option<CpuTime>,
}

/// The numbers of a [`Measurement`]; times are in microseconds, rates in MiB/s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of statistics")]
pub enum Values {
    /// Time of one message.
    Latency {
        min: f64,
        p50: f64,
        average: f64,
        p99: f64,
        /// Not every program tells it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        p999: Option<f64>,
        max: f64,
    },
    /// Mean time of a round trip, from a program that tells nothing else.
    RoundTrip { average: f64 },
    /// Bytes moved in a second.
    Bandwidth {
        average: f64,
        /// Millions of messages in a second, if the program tells it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        message_rate: Option<f64>,
    },
}

impl Values {
    /// The number that is compared: median, mean round trip or mean bandwidth.
    pub fn primary(&self) -> f64 {
        match *self {
            Self::Latency { p50, .. } => p50,
            Self::RoundTrip { average } | Self::Bandwidth { average, .. } => average,
        }
    }

    /// Millions of messages in a second, where they are counted.
    pub fn message_rate(&self) -> Option<f64> {
        match *self {
            Self::Bandwidth { message_rate, .. } => message_rate,
            Self::Latency { .. } | Self::RoundTrip { .. } => None,
        }
    }

    /// The 99th percentile, where there is one.
    pub fn p99(&self) -> Option<f64> {
        match *self {
            Self::Latency { p99, .. } => Some(p99),
            Self::RoundTrip { .. } | Self::Bandwidth { .. } => None,
        }
    }

    /// How many times better `self` is than `other`: faster, or more in a second.
    pub fn times_better_than(&self, other: &Self) -> f64 {
        match self {
            Self::Latency { .. } | Self::RoundTrip { .. } => other.primary() / self.primary(),
            Self::Bandwidth { .. } => self.primary() / other.primary(),
        }
    }
}

impl Measurement {
    /// Of one run, without its processor time.
    pub fn new(
        program: Option<Program>,
        transport: Transport,
        bytes: u64,
        iterations: u64,
        values: Values,
    ) -> Self {
        let rounds = vec![values.primary()];
        Self { program, transport, bytes, iterations, values, rounds, cpu: None }
    }

    /// Of several rounds that measured the same: the numbers of the median one (of an even number, the
    /// lower one in the middle), and the median processor time. `None` without any.
    pub fn of_rounds(mut taken: Vec<Self>) -> Option<Self> {
        let rounds = taken.iter().map(|one| one.values.primary()).collect::<Vec<_>>();
        let cpu = taken.iter().filter_map(|one| one.cpu).collect::<Vec<_>>();
        taken.sort_by(|one, other| one.values.primary().total_cmp(&other.values.primary()));
        let middle = taken.len().checked_sub(1)? / 2;
        Some(Self { rounds, cpu: CpuTime::median(&cpu), ..taken.swap_remove(middle) })
    }

    /// Whether two measured the same.
    pub fn same_as(&self, other: &Self) -> bool {
        let kind = |of: &Self| std::mem::discriminant(&of.values);
        (self.program, self.transport, self.bytes) == (other.program, other.transport, other.bytes)
            && kind(self) == kind(other)
    }

    /// From a row of a latency program.
    pub fn latency(program: Program, transport: Transport, row: &Latency) -> Self {
        let values = Values::Latency {
            min: row.min,
            p50: row.p50,
            average: row.average,
            p99: row.p99,
            p999: Some(row.p999),
            max: row.max,
        };
        Self::new(Some(program), transport, row.bytes, row.iterations, values)
    }

    /// From a row of a bandwidth program.
    pub fn bandwidth(program: Program, transport: Transport, row: &Bandwidth) -> Self {
        // The rate of messages has more digits after the point, which is all that a slow device
        // with small messages has.
        let derived = row.message_rate * 1e6 * row.bytes as f64 / f64::from(1 << 20);
        let average = if row.average < 1.0 && derived > 0.0 { derived } else { row.average };
        let values = Values::Bandwidth { average, message_rate: Some(row.message_rate) };
        Self::new(Some(program), transport, row.bytes, row.iterations, values)
    }

    /// From a TCP ping-pong.
    pub fn tcp_latency(result: &PingPong) -> Self {
        let values = Values::Latency {
            min: result.min,
            p50: result.p50,
            average: result.average,
            p99: result.p99,
            p999: None,
            max: result.max,
        };
        Self::new(None, Transport::Tcp, result.bytes, result.iterations, values)
    }

    /// From a TCP stream.
    pub fn tcp_bandwidth(result: &Stream) -> Self {
        let values = Values::Bandwidth { average: result.average, message_rate: None };
        Self::new(None, Transport::Tcp, result.bytes, result.iterations, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_bandwidth_keeps_its_digits() {
        let average = |average, message_rate, bytes| {
            let row = Bandwidth { bytes, iterations: 5, peak: 0.0, average, message_rate };
            let row = Measurement::bandwidth(Program::SendBw, Transport::Rxe, &row);
            row.values.primary()
        };
        assert_eq!(average(0.0, 0.001_048_576, 2), 0.002);
        assert_eq!(average(123.45, 0.1, 1024), 123.45);
        assert_eq!(average(0.5, 0.0, 2), 0.5, "nothing to derive from");
    }

    #[test]
    fn of_several_rounds_the_median_one_stays() {
        let round = |average, user| {
            let values = Values::RoundTrip { average };
            let mut one = Measurement::new(None, Transport::Tcp, 8, average as u64, values);
            one.cpu = Some(CpuTime { daemon: user, ..CpuTime::default() });
            one
        };
        let three = vec![round(5.0, 1.0), round(9.0, 3.0), round(7.0, 2.0)];
        let median = Measurement::of_rounds(three.clone()).unwrap();
        assert_eq!((median.iterations, median.values.primary()), (7, 7.0));
        assert_eq!(median.rounds, [5.0, 9.0, 7.0]);
        assert_eq!(median.cpu.unwrap().daemon, 2.0);
        assert_eq!(Measurement::of_rounds(three[..2].to_vec()).unwrap().iterations, 5);
        assert_eq!(Measurement::of_rounds(Vec::new()), None);
        assert!(three[0].same_as(&three[1]));
        let stream = Values::Bandwidth { average: 1.0, message_rate: None };
        let stream = Measurement::new(None, Transport::Tcp, 8, 5, stream);
        assert!(!three[0].same_as(&stream));
    }

    #[test]
    fn better_is_less_time_and_more_bandwidth() {
        let (fast, slow) = (Values::RoundTrip { average: 2.0 }, Values::RoundTrip { average: 8.0 });
        assert_eq!(fast.times_better_than(&slow), 4.0);
        let bandwidth = |average| Values::Bandwidth { average, message_rate: None };
        assert_eq!(bandwidth(8.0).times_better_than(&bandwidth(2.0)), 4.0);
    }
}
