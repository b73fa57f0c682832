// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the measuring program `wire_bench` is asked, and what it answers: JSON on its command line, and a line of JSON
//! for each answer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operation of the verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// RDMA WRITE.
    Write,
    /// RDMA READ.
    Read,
    /// SEND into a receive that was posted before.
    Send,
}

impl Operation {
    /// All, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Send];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "WRITE",
            Self::Read => "READ",
            Self::Send => "SEND",
        })
    }
}

/// What one run of the program measures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Bytes of messages.
    pub sizes: Vec<u64>,
    /// Milliseconds that each figure of an operation may take.
    pub millis: u64,
    /// Connections that are made and taken down, one after the other.
    pub connections: u32,
    /// Bytes of regions that are registered.
    pub regions: Vec<u64>,
    /// How often each is registered.
    pub registrations: u32,
    /// Pages that the peer touches for the first time.
    pub pages: u32,
    /// Whether both ends are on one machine, whose processors' time must not be counted twice.
    pub one_machine: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "lowercase")]
pub enum Said {
    /// Operations one after the other, each from its post to its completion.
    Latency {
        /// Which.
        operation: Operation,
        /// Bytes of each.
        bytes: u64,
        /// How many.
        count: u64,
        /// Half took less, in nanoseconds.
        p50: u64,
        /// Of a hundred, one took longer, in nanoseconds.
        p99: u64,
        /// Time that the processors of both hosts were busy with anything for each, in nanoseconds.
        busy: f64,
        /// Packets that the RDMA devices of both hosts sent for each; `None` where they do not count them.
        packets: Option<f64>,
    },
    /// Several operations at a time.
    Throughput {
        /// Which.
        operation: Operation,
        /// Bytes of each.
        bytes: u64,
        /// How many.
        count: u64,
        /// How many were posted and not completed, at most.
        outstanding: u32,
        /// From the first post to the last completion, in nanoseconds.
        nanos: u64,
        /// As for latency.
        busy: f64,
        /// As for latency.
        packets: Option<f64>,
    },
    /// Connections.
    Connected {
        /// The time for each, in nanoseconds: its queues are made, and brought to ready to send.
        nanos: Vec<u64>,
    },
    /// Registrations of memory that was written to before.
    Registered {
        /// Bytes of the region.
        bytes: u64,
        /// The time for each, in nanoseconds.
        nanos: Vec<u64>,
    },
    /// WRITEs of 8 bytes into pages that nobody has touched since their memory was mapped.
    Touched {
        /// To each page the first, in nanoseconds.
        first: Vec<u64>,
        /// And the next.
        again: Vec<u64>,
    },
    /// That was all.
    End,
}

/// Reads what the program has printed.
///
/// # Errors
/// Why not: a line is no answer, or it did not come to its end.
pub fn parse(text: &str) -> Result<Vec<Said>, String> {
    let line = |line: &str| {
        serde_json::from_str::<Said>(line).map_err(|error| format!("{error} in the line {line}"))
    };
    let said = text.lines().filter(|line| line.starts_with('{')).map(line);
    let mut said = said.collect::<Result<Vec<_>, _>>()?;
    match said.pop() {
        Some(Said::End) => Ok(said),
        _ => Err("it has not come to its end".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_they_are_written() {
        let answers = [
            Said::Connected { nanos: vec![1, 2] },
            Said::Touched { first: vec![3], again: vec![] },
            Said::End,
        ];
        let lines = answers.iter().map(|said| serde_json::to_string(said).unwrap() + "\n");
        let text = format!("listening\n{}", lines.collect::<String>());
        assert_eq!(parse(&text).unwrap(), answers[..2]);
    }

    #[test]
    fn an_unfinished_run_is_an_error() {
        assert!(parse("").unwrap_err().contains("its end"));
        assert!(parse("{\"said\":\"connected\",\"nanos\":[]}\n").unwrap_err().contains("its end"));
        assert!(parse("{\"said\":\"nothing\"}\n").unwrap_err().contains("nothing"));
    }
}
