// SPDX-License-Identifier: Apache-2.0 OR MIT
//! UCX over shared memory, by its own `ucx_perftest`: PUT, which is its WRITE.

use std::fmt::Write as _;

use super::{
    super::{Effort, cores::Cores},
    Baseline, Found, Metric, ONE_WAY, RATE, SAMPLES, messages, streams, tool, trips,
};
use crate::error::{Doing, Error, Result};

/// The program, and the package of Debian that has it.
const PROGRAM: &str = "ucx_perftest";
/// See [`PROGRAM`].
pub const PACKAGE: &str = "ucx-utils";

/// The baseline.
pub struct Ucx;

/// A test, what it tells, and how often it is done.
struct Test {
    name: &'static str,
    metric: Metric,
    bytes: u64,
    count: u64,
}

impl Test {
    fn id(&self) -> String {
        format!("{}-{}", self.name, self.bytes)
    }
}

fn tests(effort: Effort) -> Vec<Test> {
    let one_way = ONE_WAY.map(|bytes| Test {
        name: "ucp_put_lat",
        metric: Metric::OneWay,
        bytes,
        count: SAMPLES as u64 * trips(effort, bytes),
    });
    let stream = streams(effort).map(|bytes| Test {
        name: "ucp_put_bw",
        metric: Metric::Stream,
        bytes,
        count: SAMPLES as u64 * messages(effort, bytes),
    });
    let count = SAMPLES as u64 * 100 * effort.operations;
    let rate = Test { name: "ucp_put_bw", metric: Metric::Rate, bytes: RATE, count };
    one_way.into_iter().chain(stream).chain([rate]).collect()
}

impl Baseline for Ucx {
    fn name(&self) -> &'static str {
        "UCX shm"
    }

    fn round(&mut self, cores: &Cores, effort: Effort) -> Result<Vec<Found>> {
        let tests = tests(effort);
        let folder = tempfile::tempdir().doing(|| "make a temporary folder".into())?;
        let batch = folder.path().join("batch");
        std::fs::write(&batch, batch_of(&tests)).at("write", &batch)?;
        let port = tool::free_port()?;
        let command = |core| {
            let mut command = tool::on_core(core, PROGRAM);
            command.env("UCX_TLS", "shm");
            command.args(["-p", &port.to_string(), "-v", "-b"]).arg(&batch);
            command
        };
        let mut client = command(cores.client);
        client.arg("127.0.0.1");
        let text = tool::run(command(cores.worker), client, port, PACKAGE)?;
        parse(&text, &tests)
    }

    fn note(&self) -> Option<&'static str> {
        Some(
            "ucx_perftest, UCX_TLS=shm; a PUT is a store or a copy by the sender, to memory that \
             both processes have mapped and pinned down for each other",
        )
    }
}

/// The tests as both sides read them.
fn batch_of(tests: &[Test]) -> String {
    let mut text = String::new();
    for test in tests {
        let Test { name, bytes, count, .. } = test;
        let warm_up = count.div_ceil(10);
        let id = test.id();
        let _ = writeln!(text, "{id} -t {name} -s {bytes} -n {count} -w {warm_up}");
    }
    text
}

/// Reads what `-v` prints: a header, and a line of numbers after the name of each test. There may be
/// several lines of a test; the last one has the whole.
fn parse(text: &str, tests: &[Test]) -> Result<Vec<Found>> {
    let unread =
        |what: String| Error::Unread { program: PROGRAM.into(), what, output: text.into() };
    let mut lines = text.lines();
    let header = lines.find(|line| line.contains("iterations,"));
    let header = header.ok_or_else(|| unread("there is no header".into()))?;
    let column = |name: &str| {
        let found = header.split(',').position(|heading| heading == name);
        found.ok_or_else(|| unread(format!("there is no column {name}")))
    };
    let (latency, bandwidth, rate) =
        (column("overall_lat")?, column("overall_bw")?, column("overall_mr")?);
    let rows = lines.map(|line| line.split(',').collect::<Vec<_>>()).collect::<Vec<_>>();
    let found = tests.iter().map(|test| {
        let id = test.id();
        let row = rows.iter().rfind(|row| row[0] == id);
        let row = row.ok_or_else(|| unread(format!("there is no line of {id}")))?;
        let number = |column: usize| {
            let number = row.get(column).and_then(|word| word.trim().parse::<f64>().ok());
            number.ok_or_else(|| unread(format!("the line of {id} has too few numbers")))
        };
        let value = match test.metric {
            // In microseconds, and MiB per second.
            Metric::OneWay => 1e3 * number(latency)?,
            Metric::Stream => f64::from(1 << 20) * number(bandwidth)?,
            Metric::Rate => number(rate)?,
        };
        Ok(Found::new(test.metric, test.bytes, vec![value]))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 1.13 prints it.
    const OUTPUT: &str = "\
batch,iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr
ucp_put_lat-8,100000,0.179,0.476,0.476,16.04,16.04,2101792,2101792
ucp_put_bw-65536,1200,1.9,3.9,3.9,16000.00,16000.00,250000,250000
ucp_put_bw-65536,4000,1.741,3.725,3.725,16780.71,16780.71,268491,268491
ucp_put_bw-64,4000,0.01,0.02,0.02,3000,3000,50000000,50000000
";

    fn test(name: &'static str, metric: Metric, bytes: u64) -> Test {
        Test { name, metric, bytes, count: 1 }
    }

    #[test]
    fn the_last_line_of_a_test_counts() {
        let tests = [
            test("ucp_put_lat", Metric::OneWay, 8),
            test("ucp_put_bw", Metric::Stream, 64 << 10),
            test("ucp_put_bw", Metric::Rate, 64),
        ];
        let found = parse(OUTPUT, &tests).unwrap();
        let values = found.iter().map(|found| found.values[0].round()).collect::<Vec<_>>();
        assert_eq!(values, [476.0, (16780.71 * f64::from(1 << 20)).round(), 50e6]);
        let error = parse(OUTPUT, &[test("ucp_put_lat", Metric::OneWay, 9)]).unwrap_err();
        assert!(error.to_string().contains("no line of ucp_put_lat-9"), "{error}");
        assert!(parse("nothing", &tests).is_err());
    }

    #[test]
    fn a_batch_names_every_test() {
        let batch = batch_of(&tests(Effort::FULL));
        assert!(batch.starts_with("ucp_put_lat-8 -t ucp_put_lat -s 8 -n 5000 -w 500\n"), "{batch}");
        assert_eq!(batch.lines().count(), ONE_WAY.len() + streams(Effort::FULL).count() + 1);
    }
}
