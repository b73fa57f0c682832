// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP bandwidth over the guests' virtio network card, by qperf.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::server::{fresh_port, wait_until_listening};
use crate::{
    error::{Error, Result},
    topology::{ADDRESSES, Pair},
};

const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// Result of a stream in one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Size of what is written at a time.
    pub bytes: u64,
    /// Number of writes whose bytes arrived.
    pub iterations: u64,
    /// MiB that arrived in a second.
    pub average: f64,
}

/// Streams for `seconds` from the right guest to the left, writing `bytes` at a time.
///
/// # Errors
/// When either side fails.
pub fn stream(pair: &Pair, bytes: u64, seconds: u32) -> Result<Stream> {
    let [left, right] = pair.guests();
    let (port, data) = (fresh_port(), fresh_port().to_string());
    let (listen, size, time) = (port.to_string(), bytes.to_string(), seconds.to_string());
    let server = left.command(["qperf", "-lp", &listen]).spawn()?;
    let server = wait_until_listening(left, server, port, SERVER_LIMIT)?;
    // -vvs tells how many messages there were, -uu keeps to plain bytes.
    let client = ["qperf", ADDRESSES[0], "-lp", &listen, "-ip", &data, "-t", &time, "-m", &size];
    let client = client.into_iter().chain(["-uu", "-vvs", "tcp_bw"]);
    let limit = SERVER_LIMIT + Duration::from_secs(u64::from(seconds));
    let output = right.command(client).limit(limit).run()?;
    // The server never ends by itself; dropping it ends it.
    drop(server);
    parse(bytes, &output.stdout_text())
}

fn parse(bytes: u64, text: &str) -> Result<Stream> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let value = lines.find(|(key, _)| key.trim() == name).and_then(|(_, value)| {
            let (number, unit) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
            Some((number.replace(',', "").parse::<f64>().ok()?, unit.trim()))
        });
        value.ok_or_else(|| Error::Unread {
            program: "qperf".into(),
            what: format!("it does not tell {name}"),
            output: text.into(),
        })
    };
    let (rate, unit) = value("bw")?;
    if unit != "bytes/sec" {
        return Err(Error::Unread {
            program: "qperf".into(),
            what: format!("it tells the bandwidth in {unit}"),
            output: text.into(),
        });
    }
    let (count, _) = value("recv_msgs").or_else(|_| value("send_msgs"))?;
    Ok(Stream { bytes, iterations: count as u64, average: rate / f64::from(1 << 20) })
}
