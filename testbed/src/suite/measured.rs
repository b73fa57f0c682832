// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that measure: perftest over RDMA, sockperf and qperf over TCP.

use std::time::Duration;

use super::{Failed, Run};
use crate::{
    error::{Error, Result},
    measure::{Kind, Measurement, Pace, Program, Transport, Values, sizes},
    workload::{perftest, qperf, rdma::Device, tcp},
};

/// Longest time for one run of a program, far above what a measurement is meant to take.
const LIMIT: Duration = Duration::from_secs(90);

/// Time of one TCP measurement in seconds. Neither program can be told less.
const TCP_SECONDS: u32 = 1;

/// Least iterations of latency and of bandwidth programs: few enough for 8 MiB over rxe between
/// emulated guests.
const LEAST: (u64, u64) = (10, 5);

const MOST: u64 = 10_000;

impl Run<'_> {
    /// All sizes of one program over one device.
    pub(super) fn perftest(
        &mut self,
        program: Program,
        transport: Transport,
        devices: &[Device; 2],
    ) -> std::result::Result<(), Failed> {
        let kind = program.kind();
        let least = if kind == Kind::Latency { LEAST.0 } else { LEAST.1 };
        let mut pace = Pace::new(self.options.goal, least, MOST, self.options.iterations);
        for &bytes in self.options.sizes.of(kind) {
            let iterations = pace.iterations(bytes);
            let name = format!("{program} over {transport}, {}", sizes::text(bytes));
            let measurement = self.stage(name, |run| {
                let (size, count) = (bytes.to_string(), iterations.to_string());
                let arguments = ["-s", &size, "-n", &count];
                let (pair, name) = (run.pair, program.name());
                if kind == Kind::Latency {
                    let rows = perftest::latency(pair, devices, name, &arguments, LIMIT)?;
                    Ok(Measurement::latency(program, transport, only(program, &rows)?))
                } else {
                    let rows = perftest::bandwidth(pair, devices, name, &arguments, LIMIT)?;
                    Ok(Measurement::bandwidth(program, transport, only(program, &rows)?))
                }
            })?;
            pace.measured(bytes, each(program, &measurement));
            self.report.measurements.push(measurement);
        }
        Ok(())
    }

    /// All sizes over TCP.
    pub(super) fn tcp(&mut self, kind: Kind) -> std::result::Result<(), Failed> {
        let name = if kind == Kind::Latency { "sockperf ping-pong" } else { "qperf tcp_bw" };
        self.progress.group(name.into());
        for &bytes in self.options.sizes.of(kind) {
            let name = format!("{name}, {}", sizes::text(bytes));
            let measurement = self.stage(name, |run| {
                if kind == Kind::Latency {
                    let bytes = bytes.max(tcp::LEAST_BYTES);
                    let result = tcp::ping_pong(run.pair, bytes, TCP_SECONDS)?;
                    return Ok(Measurement::tcp_latency(&result));
                }
                let result = qperf::stream(run.pair, bytes, TCP_SECONDS)?;
                let (bytes, iterations) = (result.bytes, result.iterations);
                let values = Values::Bandwidth { average: result.average, message_rate: None };
                Ok(Measurement {
                    program: None,
                    transport: Transport::Tcp,
                    bytes,
                    iterations,
                    values,
                })
            })?;
            self.report.measurements.push(measurement);
        }
        Ok(())
    }
}

fn only<T>(program: Program, rows: &[T]) -> Result<&T> {
    let [row] = rows else {
        let what = format!("it has {} rows for one size", rows.len());
        return Err(Error::Unread { program: program.name().into(), what, output: String::new() });
    };
    Ok(row)
}

/// How long one iteration took from its start to the next.
fn each(program: Program, measurement: &Measurement) -> Duration {
    let seconds = match measurement.values {
        // Half a round trip is told, and a whole one passes.
        Values::Latency { average, .. } if program != Program::ReadLat => 2.0 * average / 1e6,
        Values::Latency { average, .. } | Values::RoundTrip { average } => average / 1e6,
        Values::Bandwidth { message_rate: Some(rate), .. } if rate > 0.0 => 1.0 / (rate * 1e6),
        Values::Bandwidth { average, .. } => {
            measurement.bytes as f64 / (average * f64::from(1 << 20))
        }
    };
    // Infinite when a rate was printed as 0: then as long as can be.
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_iteration_is_that_of_all_it_does() {
        let of = |program, values| {
            let transport = Transport::Vnic;
            let program = Some(program);
            Measurement { program, transport, bytes: 1 << 20, iterations: 10, values }
        };
        let latency = |average| Values::Latency {
            min: 0.0,
            p50: 0.0,
            average,
            p99: 0.0,
            p999: None,
            max: 0.0,
        };
        let bandwidth = |average, rate| Values::Bandwidth { average, message_rate: Some(rate) };
        for (program, values, micros) in [
            (Program::WriteLat, latency(10.0), 20),
            (Program::ReadLat, latency(10.0), 10),
            (Program::WriteBw, bandwidth(7.0, 0.1), 10),
            (Program::WriteBw, bandwidth(100.0, 0.0), 10_000),
        ] {
            assert_eq!(each(program, &of(program, values)), Duration::from_micros(micros));
        }
        let none = of(Program::WriteBw, bandwidth(0.0, 0.0));
        assert_eq!(each(Program::WriteBw, &none), Duration::MAX);
    }
}
