// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon tells about itself, over a local control socket.
//!
//! A client sends lines of JSON and gets one line of JSON for each:
//!
//! ```text
//! {"request":"status"}      ->  {"status":{"version":"0.1.0","workers":1,"ports":[...]}}
//! anything else             ->  {"error":"..."}
//! ```

mod client;
mod report;
mod server;
mod table;

pub use client::{ClientError, query};
pub use report::{DirectReport, Objects, PeerReport, PortReport, Report, WireReport};
pub use server::ControlServer;
pub use table::table;

use serde::{Deserialize, Serialize};

/// What a client may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Status {},
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Response {
    Status(Report),
    Error(String),
}
