// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that measure: perftest over RDMA, sockperf and qperf over TCP.

use std::time::Duration;

use super::{Failed, Options, Run};
use crate::{
    error::{Error, Result},
    measure::{Kind, Measurement, Pace, Program, Transport, Values, sizes},
    topology::Pair,
    workload::{perftest, qperf, rdma::Device, tcp},
};

/// Longest time for one run of a program, far above what a measurement is meant to take.
const LIMIT: Duration = Duration::from_secs(90);

/// Time of one TCP measurement in seconds. Neither program can be told less.
const TCP_SECONDS: u32 = 1;

/// Least iterations, which is also perftest's own limit.
const LEAST: u64 = 5;

const MOST: u64 = 10_000;

/// Iterations of each size when all are measured at once, over the vNIC and over rxe: 16 MiB move
/// with each.
const SWEEP: (u64, u64) = (500, 5);

impl Run<'_> {
    /// All sizes of one program over one device.
    pub(super) fn perftest(
        &mut self,
        program: Program,
        transport: Transport,
        devices: &[Device; 2],
    ) -> std::result::Result<(), Failed> {
        if sweeps(self.options, program.kind()) {
            return self.sweep(program, transport, devices);
        }
        let kind = program.kind();
        let mut pace = Pace::new(self.options.goal, LEAST, MOST, self.options.iterations);
        for (index, &bytes) in self.options.sizes.of(kind).iter().enumerate() {
            let name = format!("{program} over {transport}, {}", sizes::text(bytes));
            let measurement = self.stage(name, |run| {
                let mut again = index == 0;
                loop {
                    let iterations = pace.iterations(bytes);
                    let (size, count) = (bytes.to_string(), iterations.to_string());
                    let arguments = ["-s", &size, "-n", &count];
                    let mut rows = rows(run.pair, program, transport, devices, &arguments)?;
                    let row = match (rows.len(), rows.pop()) {
                        (1, Some(row)) if row.bytes == bytes => row,
                        _ => return Err(other_rows(program, "it has not one row for the size")),
                    };
                    pace.measured(bytes, each(program, &row));
                    if !(again && pace.was_short(bytes, iterations)) {
                        return Ok(row);
                    }
                    again = false;
                }
            })?;
            self.report.measurements.push(measurement);
        }
        Ok(())
    }

    /// All powers of two at once, which saves the second that a bandwidth program takes to start.
    fn sweep(
        &mut self,
        program: Program,
        transport: Transport,
        devices: &[Device; 2],
    ) -> std::result::Result<(), Failed> {
        let usual = if transport == Transport::Rxe { SWEEP.1 } else { SWEEP.0 };
        let count = self.options.iterations.unwrap_or(usual).to_string();
        let rows = self.stage(format!("{program} -a over {transport}"), |run| {
            let rows = rows(run.pair, program, transport, devices, &["-a", "-n", &count])?;
            let wanted = run.options.sizes.of(program.kind());
            if wanted.iter().all(|bytes| rows.iter().any(|row| row.bytes == *bytes)) {
                Ok(rows)
            } else {
                Err(other_rows(program, "it has no row for some of the sizes"))
            }
        })?;
        self.report.measurements.extend(rows);
        Ok(())
    }

    /// All sizes over TCP.
    pub(super) fn tcp(&mut self, kind: Kind) -> std::result::Result<(), Failed> {
        let name = if kind == Kind::Latency { "sockperf ping-pong" } else { "qperf tcp_bw" };
        self.progress.group(name.into());
        let mut server = None;
        for bytes in tcp_sizes(self.options, kind) {
            let name = format!("{name}, {}", sizes::text(bytes));
            let measurement = self.stage(name, |run| {
                if kind == Kind::Latency {
                    let server = match &server {
                        Some(server) => server,
                        None => server.insert(tcp::Server::start(run.pair)?),
                    };
                    let result = server.ping_pong(bytes, TCP_SECONDS)?;
                    return Ok(Measurement::tcp_latency(&result));
                }
                let result = qperf::stream(run.pair, bytes, TCP_SECONDS)?;
                Ok(Measurement::tcp_bandwidth(&result))
            })?;
            self.report.measurements.push(measurement);
        }
        Ok(())
    }
}

/// The sizes that TCP is measured with, each once.
pub(super) fn tcp_sizes(options: &Options, kind: Kind) -> Vec<u64> {
    if !options.needs_tcp(kind) {
        return Vec::new();
    }
    let sizes = options.sizes.of(kind).iter().copied();
    let mut sizes = match kind {
        Kind::Latency => sizes.filter_map(tcp::stand_in).collect::<Vec<_>>(),
        _ => sizes.collect(),
    };
    sizes.dedup();
    sizes
}

/// Whether one run measures all sizes of this kind of program.
pub(super) fn sweeps(options: &Options, kind: Kind) -> bool {
    kind == Kind::Bandwidth && options.sweep
}

fn rows(
    pair: &Pair,
    program: Program,
    transport: Transport,
    devices: &[Device; 2],
    arguments: &[&str],
) -> Result<Vec<Measurement>> {
    let name = program.name();
    if program.kind() == Kind::Latency {
        let rows = perftest::latency(pair, devices, name, arguments, LIMIT)?;
        return Ok(rows.iter().map(|row| Measurement::latency(program, transport, row)).collect());
    }
    let rows = perftest::bandwidth(pair, devices, name, arguments, LIMIT)?;
    Ok(rows.iter().map(|row| Measurement::bandwidth(program, transport, row)).collect())
}

fn other_rows(program: Program, what: &str) -> Error {
    Error::Unread { program: program.name().into(), what: what.into(), output: String::new() }
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
