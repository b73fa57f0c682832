// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The perftest programs: `ib_write_lat` and its relatives.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    end::End,
    rdma::Device,
    server::{fresh_port, wait_until_listening},
};
use crate::{
    error::{Error, Result},
    guest::Output,
    topology::Pair,
};

/// How long a server may take to listen.
const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// One row of a latency program. Times are in microseconds; for write and send they are half a
/// round trip, for read and atomics the whole operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Size of the message.
    pub bytes: u64,
    /// Number of operations measured.
    pub iterations: u64,
    /// The fastest.
    pub min: f64,
    /// The slowest.
    pub max: f64,
    /// The median, which perftest calls typical.
    pub p50: f64,
    /// The mean.
    pub average: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1000 were faster.
    pub p999: f64,
}

/// One row of a bandwidth program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Size of the message.
    pub bytes: u64,
    /// Number of operations measured.
    pub iterations: u64,
    /// Highest, in MiB/s; 0 when perftest was told not to measure it.
    pub peak: f64,
    /// Mean, in MiB/s.
    pub average: f64,
    /// Messages per second, in millions.
    pub message_rate: f64,
}

/// Runs a program of perftest with its server in the left guest and its client in the right;
/// returns the client's output. `arguments` go to both; device, GID index and port are added.
///
/// # Errors
/// When either side fails or does not end within `limit`, with what it printed.
pub fn run(
    pair: &Pair,
    devices: &[Device; 2],
    program: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<Output> {
    between(&End::of_pair(pair, devices), program, arguments, limit)
}

/// As [`run`], between any two ends; the server is at the first.
///
/// # Errors
/// As [`run`].
pub fn between(
    ends: &[End; 2],
    program: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<Output> {
    let [server, client] = ends;
    let port = fresh_port();
    let argv = |device: &Device, server: Option<&str>| {
        let gid = device.gid_index.to_string();
        let port = port.to_string();
        let own = [program, "-d", &device.name, "-x", &gid, "-p", &port, "-F"];
        let argv = own.into_iter().chain(arguments.iter().copied()).chain(server);
        argv.map(String::from).collect::<Vec<_>>()
    };
    let serving = server.place.command(argv(&server.device, None)).spawn()?;
    let serving = wait_until_listening(server.place.guest(), serving, port, SERVER_LIMIT)?;
    let argv = argv(&client.device, Some(&server.address));
    let output = client.place.command(argv).limit(limit).run().map_err(|error| {
        // The server often knows the reason better than the client.
        let served = serving.output_so_far().map(|output| output.all_text()).unwrap_or_default();
        error.with_output(&format!("Its server in {} had printed:\n{served}", server.place))
    })?;
    serving.wait(limit)?.success()?;
    Ok(output)
}

/// Runs a latency program, `ib_write_lat` for example.
///
/// # Errors
/// As [`run`], and when the output has no results.
pub fn latency(
    pair: &Pair,
    devices: &[Device; 2],
    program: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<Vec<Latency>> {
    parse_latency(program, &run(pair, devices, program, arguments, limit)?.stdout_text())
}

/// Runs a bandwidth program, `ib_write_bw` for example.
///
/// # Errors
/// As [`run`], and when the output has no results.
pub fn bandwidth(
    pair: &Pair,
    devices: &[Device; 2],
    program: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<Vec<Bandwidth>> {
    parse_bandwidth(program, &run(pair, devices, program, arguments, limit)?.stdout_text())
}

/// Reads what a latency program printed.
///
/// # Errors
/// When it has no row, or a column is missing.
pub fn parse_latency(program: &str, text: &str) -> Result<Vec<Latency>> {
    rows(program, text, |row| {
        Some(Latency {
            bytes: row.count("#bytes")?,
            iterations: row.count("#iterations")?,
            min: row.number("t_min[usec]")?,
            max: row.number("t_max[usec]")?,
            p50: row.number("t_typical[usec]")?,
            average: row.number("t_avg[usec]")?,
            p99: row.number("99% percentile[usec]")?,
            p999: row.number("99.9% percentile[usec]")?,
        })
    })
}

/// Reads what a bandwidth program printed.
///
/// # Errors
/// When it has no row, or a column is missing.
pub fn parse_bandwidth(program: &str, text: &str) -> Result<Vec<Bandwidth>> {
    rows(program, text, |row| {
        Some(Bandwidth {
            bytes: row.count("#bytes")?,
            iterations: row.count("#iterations")?,
            peak: row.number("BW peak[MiB/sec]")?,
            average: row.number("BW average[MiB/sec]")?,
            message_rate: row.number("MsgRate[Mpps]")?,
        })
    })
}

struct Row<'a>(BTreeMap<&'a str, &'a str>);

impl Row<'_> {
    fn count(&self, column: &str) -> Option<u64> {
        self.0.get(column)?.parse().ok()
    }

    fn number(&self, column: &str) -> Option<f64> {
        self.0.get(column)?.parse().ok().filter(|number: &f64| number.is_finite())
    }
}

/// Finds the table below the line of headings and reads each of its rows.
fn rows<T>(program: &str, text: &str, read: impl Fn(&Row<'_>) -> Option<T>) -> Result<Vec<T>> {
    let unread =
        |what: String| Error::Unread { program: program.into(), what, output: text.into() };
    let mut lines = text.lines().map(str::trim);
    let headings = lines.find(|line| line.starts_with("#bytes"));
    let headings = headings.ok_or_else(|| unread("it has no line of headings".into()))?;
    let headings = split_headings(headings);
    let mut rows = Vec::new();
    for line in lines {
        let fields = line.split_whitespace().collect::<Vec<_>>();
        // The table ends at a rule; warnings of perftest may stand between its rows.
        if fields.first().is_none_or(|first| first.parse::<u64>().is_err()) {
            continue;
        }
        if fields.len() != headings.len() {
            return Err(unread(format!(
                "a row has {} fields, not {}",
                fields.len(),
                headings.len()
            )));
        }
        let row = Row(headings.iter().copied().zip(fields).collect());
        rows.push(read(&row).ok_or_else(|| unread(format!("cannot read the row `{line}`")))?);
    }
    if rows.is_empty() {
        return Err(unread("it has no results".into()));
    }
    Ok(rows)
}

/// Headings are two words at most, of which the last has a unit in brackets.
fn split_headings(line: &str) -> Vec<&str> {
    let mut headings = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
        // A count has no unit; anything else ends with one.
        let end = if rest.starts_with('#') { Some(word) } else { rest.find(']').map(|i| i + 1) };
        let (heading, after) = rest.split_at(end.unwrap_or(word));
        headings.push(heading);
        rest = after.trim_start();
    }
    headings
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: &str = include_str!("samples/ib_write_lat.txt");
    const BANDWIDTH: &str = include_str!("samples/ib_write_bw.txt");

    #[test]
    fn latency_is_read() {
        insta::assert_json_snapshot!(parse_latency("ib_write_lat", LATENCY).unwrap());
    }

    #[test]
    fn bandwidth_is_read() {
        insta::assert_json_snapshot!(parse_bandwidth("ib_write_bw", BANDWIDTH).unwrap());
    }

    #[test]
    fn a_cut_row_is_an_error() {
        let cut = LATENCY.trim_end().trim_end_matches('-').trim_end();
        let cut = &cut[..cut.rfind(char::is_whitespace).unwrap()];
        let error = parse_latency("ib_write_lat", cut).unwrap_err().to_string();
        assert!(error.contains("a row has"), "{error}");
    }

    #[test]
    fn a_table_without_rows_is_an_error() {
        for text in
            ["", "Couldn't connect to 10.77.0.1:18515\n", " #bytes #iterations t_min[usec]\n"]
        {
            assert!(parse_latency("ib_write_lat", text).is_err(), "{text}");
        }
    }
}
