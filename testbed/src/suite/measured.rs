// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that measure: perftest over RDMA, sockperf and qperf over TCP.

use std::{collections::BTreeMap, time::Duration};

use super::{Failed, Options, Run};
use crate::{
    error::{Error, Result},
    measure::{CpuTime, Kind, Measurement, Pace, Program, Transport, Values, sizes},
    topology::Pair,
    workload::{perftest, qperf, rdma::Device, tcp},
};

/// Longest time for one run of a program, far above what a measurement is meant to take.
const LIMIT: Duration = Duration::from_secs(90);

/// Time of one TCP measurement in seconds. Neither program can be told less.
const TCP_SECONDS: u32 = 1;

/// Least iterations, which is also perftest's own limit.
const LEAST: u64 = 5;

/// Most iterations of a latency program, which keeps and sorts the time of each.
const MOST_TIMES: u64 = 200_000;

/// Most iterations of a bandwidth program.
const MOST: u64 = 20_000_000;

/// How often a measurement that was too short is taken again, with what it has told.
const AGAIN: usize = 3;

/// What is known of the programs over the devices, from one round to the next.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<(Program, Transport), Pace>);

impl Run<'_> {
    /// All sizes of one program over one device that are measured in a round.
    pub(super) fn perftest(
        &mut self,
        program: Program,
        transport: Transport,
        devices: &[Device; 2],
        round: usize,
    ) -> std::result::Result<(), Failed> {
        let sizes = self.options.sizes_in(round, program);
        let Some(&smallest) = sizes.first() else { return Ok(()) };
        let mut pace = self.paces.0.remove(&(program, transport)).unwrap_or_else(|| {
            let most = if program.kind() == Kind::Latency { MOST_TIMES } else { MOST };
            Pace::new(LEAST, most, self.options.iterations)
        });
        // What a run takes beside its iterations, and a first guess at what those take.
        let name = format!("{program} over {transport}, setting up");
        let (short, idle) =
            self.stage(name, |run| run.once(program, transport, devices, smallest, LEAST))?;
        if round == 0 {
            pace.measured(smallest, each(program, &short), LEAST);
        }
        for bytes in sizes {
            let goal = self.options.goal_of(program, bytes);
            let name = format!("{program} over {transport}, {}", sizes::text(bytes));
            let measurement = self.stage(name, |run| {
                let mut again = AGAIN;
                loop {
                    let iterations = pace.iterations(bytes, goal);
                    let (mut row, time) =
                        run.once(program, transport, devices, bytes, iterations)?;
                    pace.measured(bytes, each(program, &row), iterations);
                    if again == 0 || !pace.was_short(bytes, iterations, goal) {
                        row.cpu = CpuTime::per_operation((&time, iterations), (&idle, LEAST));
                        return Ok(row);
                    }
                    again -= 1;
                }
            })?;
            self.taken.add(measurement);
        }
        self.paces.0.insert((program, transport), pace);
        Ok(())
    }

    /// One run of a program, and the processor time of all of it.
    fn once(
        &self,
        program: Program,
        transport: Transport,
        devices: &[Device; 2],
        bytes: u64,
        iterations: u64,
    ) -> Result<(Measurement, CpuTime)> {
        let (size, count) = (bytes.to_string(), iterations.to_string());
        let mut arguments = vec!["-s", &size, "-n", &count];
        if program.kind() == Kind::Bandwidth {
            // The highest bandwidth is not asked for: to find it takes a clock for each message, and
            // programs leave it out by themselves if there are many.
            arguments.push("-N");
        }
        let before = self.meter.read(self.pair)?;
        let mut rows = rows(self.pair, program, transport, devices, &arguments)?;
        let time = self.meter.read(self.pair)?.since(&before);
        match (rows.len(), rows.pop()) {
            (1, Some(row)) if row.bytes == bytes => Ok((row, time)),
            _ => Err(Error::Unread {
                program: program.name().into(),
                what: "it has not one row for the size".into(),
                output: String::new(),
            }),
        }
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
            self.taken.add(measurement);
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
        let of =
            |program, values| Measurement::new(Some(program), Transport::Vnic, 1 << 20, 10, values);
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
