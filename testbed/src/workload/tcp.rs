// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP ping-pong over the guests' virtio network card, by sockperf.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::server::{fresh_port, wait_until_listening};
use crate::{
    error::{Error, Result},
    guest::Running,
    topology::{ADDRESSES, Pair},
};

/// Sizes of the messages that sockperf sends; the smallest is its header.
pub const BYTES: RangeInclusive<u64> = 14..=(1 << 20) - 1;

/// The size that stands for messages of `bytes`, if there is one: the smallest for all below it,
/// the largest for 1 MiB, which is one byte more.
pub fn stand_in(bytes: u64) -> Option<u64> {
    (bytes <= BYTES.end() + 1).then(|| bytes.clamp(*BYTES.start(), *BYTES.end()))
}

const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// Result of a ping-pong. Times are in microseconds, half a round trip each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingPong {
    /// Size of the message.
    pub bytes: u64,
    /// Number of round trips measured.
    pub iterations: u64,
    /// The mean.
    pub average: f64,
    /// The fastest.
    pub min: f64,
    /// The slowest.
    pub max: f64,
    /// The median.
    pub p50: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
}

/// A server in the left guest, ended when it is dropped. It serves any number of ping-pongs, one
/// after the other; to start it takes longer than to play.
#[derive(Debug)]
pub struct Server<'a> {
    pair: &'a Pair,
    port: String,
    running: Running,
}

impl<'a> Server<'a> {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it ends or does not listen in time.
    pub fn start(pair: &'a Pair) -> Result<Self> {
        let [left, _] = pair.guests();
        let number = fresh_port();
        let port = number.to_string();
        // Without the size, it drops who sends more than fits into a datagram.
        let most = BYTES.end().to_string();
        let options = ["--tcp", "-i", ADDRESSES[0], "-p", &port, "-m", &most];
        let server =
            left.command(["sockperf", "server"].iter().chain(&options).copied()).spawn()?;
        let server = wait_until_listening(left, server, number, SERVER_LIMIT)?;
        Ok(Self { pair, port, running: server })
    }

    /// Plays ping-pong with messages of `bytes`, one of [`BYTES`], for `seconds`.
    ///
    /// # Errors
    /// When the client fails, or a message was lost.
    pub fn ping_pong(&self, bytes: u64, seconds: u32) -> Result<PingPong> {
        let [_, right] = self.pair.guests();
        let (size, time) = (bytes.to_string(), seconds.to_string());
        let address = ["--tcp", "-i", ADDRESSES[0], "-p", &self.port];
        let size = ["-m", &size, "-t", &time];
        let client = ["sockperf", "ping-pong"].iter().chain(&address).chain(&size).copied();
        let limit = SERVER_LIMIT + Duration::from_secs(u64::from(seconds));
        let output = right.command(client).limit(limit).run().map_err(|error| {
            let served = self.running.output_so_far();
            let served = served.map(|output| output.all_text()).unwrap_or_default();
            error.with_output(&format!("Its server had printed:\n{served}"))
        })?;
        parse(bytes, &output.stdout_text())
    }
}

/// Plays ping-pong with a server of its own.
///
/// # Errors
/// As [`Server::start`] and [`Server::ping_pong`].
pub fn ping_pong(pair: &Pair, bytes: u64, seconds: u32) -> Result<PingPong> {
    Server::start(pair)?.ping_pong(bytes, seconds)
}

fn parse(bytes: u64, text: &str) -> Result<PingPong> {
    let unread = |what: &str| Error::Unread {
        program: "sockperf".into(),
        what: format!("it does not say {what}"),
        output: text.into(),
    };
    let after = |before: &str| {
        let rest = &text[text.find(before)? + before.len()..];
        rest.trim_start_matches([' ', '=']).split([' ', ';', '\n']).next()
    };
    let number = |before: &str| {
        let value = after(before).and_then(|word| word.parse::<f64>().ok());
        value.ok_or_else(|| unread(before))
    };
    let lost = number("# dropped messages")?;
    if lost != 0.0 {
        return Err(unread("that no message was lost"));
    }
    let total = text.lines().find(|line| line.contains(" observations"));
    let count = total.and_then(|line| line.split("Total ").nth(1)?.split(' ').next()?.parse().ok());
    Ok(PingPong {
        bytes,
        iterations: count.ok_or_else(|| unread("how many round trips it saw"))?,
        average: number("Latency is")?,
        min: number("<MIN> observation")?,
        max: number("<MAX> observation")?,
        p50: number("percentile 50.000")?,
        p99: number("percentile 99.000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("samples/sockperf.txt");

    #[test]
    fn a_ping_pong_is_read() {
        insta::assert_json_snapshot!(parse(64, SAMPLE).unwrap());
    }

    #[test]
    fn a_size_has_a_stand_in_close_by() {
        let sizes = [2, 14, 64, 1 << 20, (1 << 20) + 1];
        let expected = [Some(14), Some(14), Some(64), Some((1 << 20) - 1), None];
        assert_eq!(sizes.map(stand_in), expected);
    }

    #[test]
    fn a_lost_message_and_a_missing_line_are_errors() {
        assert!(
            parse(64, &SAMPLE.replace("dropped messages = 0", "dropped messages = 3")).is_err()
        );
        assert!(parse(64, &SAMPLE.replace("percentile 99.000", "")).is_err());
        assert!(parse(64, "sockperf: ERROR: Can't connect\n").is_err());
    }
}
