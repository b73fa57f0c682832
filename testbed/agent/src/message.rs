// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the host asks of the agent, and what the agent answers.

use std::fmt;

use serde::{Deserialize, Serialize};
pub use serde_bytes::ByteBuf as Body;

/// A message and the request that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct To<T> {
    /// Number of the request, chosen by the host and never used twice.
    pub id: u64,
    /// The message.
    pub body: T,
}

/// From the host to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Answered by [`Reply::Done`].
    Ping,
    /// Starts a program in a process group of its own. Answered by [`Reply::Started`], the
    /// output as it comes, and [`Reply::Exited`].
    Start(Start),
    /// Sends a signal to the process group that request `command` started. Answered by
    /// [`Reply::Done`], also when the command has ended.
    Signal {
        /// Number of the [`Request::Start`].
        command: u64,
        /// Number of the signal.
        signal: i32,
    },
    /// Writes a file, or appends to it. Answered by [`Reply::Done`].
    Write {
        /// Absolute path. Missing folders are made.
        path: String,
        /// Permission bits of a file that does not exist yet.
        mode: u32,
        /// Append instead of truncating first.
        append: bool,
        /// The content.
        data: Body,
    },
    /// Reads a file to its end. Answered by [`Reply::Data`] as often as needed and [`Reply::Done`].
    Read {
        /// Absolute path.
        path: String,
    },
}

/// A program to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Program and arguments; the program is looked up in `PATH`.
    pub argv: Vec<String>,
    /// Variables added to the agent's own environment.
    pub env: Vec<(String, String)>,
    /// Working directory; the agent's own when absent.
    pub cwd: Option<String>,
    /// What the program reads from its standard input, which then ends.
    pub stdin: Body,
}

/// From the agent to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The program runs.
    Started {
        /// Its process id, which is also its process group.
        pid: i32,
    },
    /// Bytes of its standard output.
    Stdout(Body),
    /// Bytes of its standard error.
    Stderr(Body),
    /// It ended; nothing follows.
    Exited(Exit),
    /// Content of a file.
    Data(Body),
    /// The request was carried out; nothing follows.
    Done,
    /// The request failed, with the reason; nothing follows.
    Failed(String),
}

impl Reply {
    /// Whether no further reply to the same request follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Exited(_) | Self::Done | Self::Failed(_))
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether the program returned 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
