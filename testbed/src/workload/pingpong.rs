// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `ibv_rc_pingpong` of the libibverbs examples: SEND in turns, the contents checked if asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    end::End,
    rdma::Device,
    server::{fresh_port, wait_until_listening},
};
use crate::{
    error::{Error, Result},
    topology::Pair,
};

const PROGRAM: &str = "ibv_rc_pingpong";

/// How long a server may take to listen.
const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// What the server prints for every page that does not hold what was sent. It returns success
/// all the same.
const CORRUPT: &str = "invalid data";

/// What is sent, and how it is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Size of a message.
    pub bytes: u64,
    /// Number of round trips.
    pub iterations: u64,
    /// The receiver checks a byte of every page.
    pub check: bool,
    /// Completions are waited for and not polled for.
    pub events: bool,
}

impl Options {
    /// The options that are not numbers.
    pub fn flags(&self) -> Vec<&'static str> {
        let flags = [("-c", self.check), ("-e", self.events)];
        flags.into_iter().filter_map(|(flag, set)| set.then_some(flag)).collect()
    }
}

/// What one side measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// Size of the message.
    pub bytes: u64,
    /// Number of round trips.
    pub iterations: u64,
    /// Mean time of one in microseconds.
    pub average: f64,
}

/// Plays ping-pong with the server in the left guest; returns what the client measured.
///
/// # Errors
/// When either side fails or does not end within `limit`, and when the contents are wrong.
pub fn run(
    pair: &Pair,
    devices: &[Device; 2],
    options: &Options,
    limit: Duration,
) -> Result<RoundTrips> {
    between(&End::of_pair(pair, devices), options, limit)
}

/// As [`run`], between any two ends; the server is at the first.
///
/// # Errors
/// As [`run`].
pub fn between(ends: &[End; 2], options: &Options, limit: Duration) -> Result<RoundTrips> {
    let [server, client] = ends;
    let port = fresh_port();
    let argv = |device: &Device, server: Option<&str>| {
        let numbers = [
            ("-g", device.gid_index.to_string()),
            ("-p", port.to_string()),
            ("-s", options.bytes.to_string()),
            ("-n", options.iterations.to_string()),
        ];
        let mut argv = [PROGRAM, "-d", &device.name].map(String::from).to_vec();
        argv.extend(numbers.into_iter().flat_map(|(name, value)| [name.into(), value]));
        argv.extend(options.flags().into_iter().chain(server).map(String::from));
        argv
    };
    let serving = server.place.command(argv(&server.device, None)).spawn()?;
    let serving = wait_until_listening(server.place.guest(), serving, port, SERVER_LIMIT)?;
    let argv = argv(&client.device, Some(&server.address));
    let output = client.place.command(argv).limit(limit).run().map_err(|error| {
        let served = serving.output_so_far().map(|output| output.all_text()).unwrap_or_default();
        error.with_output(&format!("Its server in {} had printed:\n{served}", server.place))
    })?;
    let served = serving.wait(limit)?.success()?.all_text();
    intact(&served)?;
    parse(options, &output.stdout_text())
}

fn intact(served: &str) -> Result<()> {
    if !served.contains(CORRUPT) {
        return Ok(());
    }
    let (program, what) = (PROGRAM.into(), "what arrived is not what was sent".into());
    Err(Error::Unread { program, what, output: served.into() })
}

fn parse(options: &Options, text: &str) -> Result<RoundTrips> {
    let unread = || Error::Unread {
        program: PROGRAM.into(),
        what: format!("it does not tell the time of {} round trips", options.iterations),
        output: text.into(),
    };
    let line = text.lines().find_map(|line| line.split_once(" iters in "));
    let (count, rest) = line.ok_or_else(unread)?;
    let each = rest.split_once("= ").and_then(|(_, each)| each.strip_suffix(" usec/iter"));
    let average = each.and_then(|each| each.trim().parse().ok()).ok_or_else(unread)?;
    let iterations = count.trim().parse().ok().filter(|n| *n == options.iterations);
    Ok(RoundTrips { bytes: options.bytes, iterations: iterations.ok_or_else(unread)?, average })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options { bytes: 4096, iterations: 1000, check: true, events: false };

    const SAMPLE: &str = "  local address:  LID 0x0000, QPN 0x000011, PSN 0x6ee7b9, GID ::ffff:10.77.0.2\n\
        \x20 remote address: LID 0x0000, QPN 0x000011, PSN 0x2c79a8, GID ::ffff:10.77.0.1\n\
        8192000 bytes in 0.57 seconds = 115.82 Mbit/sec\n\
        1000 iters in 0.57 seconds = 565.84 usec/iter\n";

    #[test]
    fn round_trips_are_read() {
        let trips = parse(&OPTIONS, SAMPLE).unwrap();
        assert_eq!(trips, RoundTrips { bytes: 4096, iterations: 1000, average: 565.84 });
    }

    #[test]
    fn too_few_round_trips_or_none_are_errors() {
        assert!(parse(&OPTIONS, &SAMPLE.replace("1000 iters", "999 iters")).is_err());
        assert!(parse(&OPTIONS, "Couldn't get context for vnic0\n").is_err());
    }

    #[test]
    fn a_wrong_page_is_an_error() {
        intact(SAMPLE).unwrap();
        let error = intact(&format!("{SAMPLE}invalid data in page 3\n")).unwrap_err().to_string();
        assert!(error.contains("not what was sent") && error.contains("page 3"), "{error}");
    }

    #[test]
    fn flags_are_those_of_the_program() {
        assert_eq!(OPTIONS.flags(), ["-c"]);
        assert_eq!(Options { check: false, events: true, ..OPTIONS }.flags(), ["-e"]);
    }
}
