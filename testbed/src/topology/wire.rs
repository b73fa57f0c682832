// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A wire between the daemons of two guests: when it can be used.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::Pair;
use crate::{
    daemon::Daemon,
    error::{Doing, Error, Result},
};

impl Pair {
    /// Waits until the daemons, whose program this is, have found each other and know the addresses of each other's guests.
    /// Where there is one daemon, it is done.
    ///
    /// # Errors
    /// When they have not within `limit`, or one does not answer.
    pub fn wait_for_the_wire(&self, program: &Path, limit: Duration) -> Result<()> {
        if self.other.is_none() {
            return Ok(());
        }
        let until = Instant::now() + limit;
        for daemon in self.daemons() {
            loop {
                let wire = wire_of(program, daemon)?;
                let peer = &wire["peers"][0];
                if peer["connected"] == true && peer["addresses"] != 0 {
                    break;
                }
                if Instant::now() >= until {
                    let what = format!("daemons have not found each other in {limit:?}: {wire}");
                    return Err(Error::unfit(what, "Their logs say why."));
                }
                // Only how often is asked; what is right does not depend on it.
                thread::sleep(Duration::from_millis(30));
            }
        }
        Ok(())
    }
}

/// What a daemon says of its wire.
fn wire_of(program: &Path, daemon: &Daemon) -> Result<Value> {
    let mut ask = Command::new("timeout");
    ask.arg("20").arg(program).args(["status", "--json", "--socket"]).arg(daemon.control());
    let output = ask.output().doing(|| "run `vnic status`".into())?;
    let status: Value = serde_json::from_slice(&output.stdout).map_err(|error| Error::Unread {
        program: "vnic status".into(),
        what: error.to_string(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
    })?;
    Ok(status["wire"].clone())
}
