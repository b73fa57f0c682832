// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Starts servers in a guest and knows when a client may connect.

use std::{
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    guest::{Guest, Running},
};

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A TCP port that no server of this process has had, so that nothing left of an earlier run matters.
pub(crate) fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Relaxed: only the uniqueness of the number matters.
    18_515 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000
}

/// Waits until something listens on `port` in the network namespace of the server.
///
/// Servers announce themselves in a buffered output, which arrives too late.
pub(crate) fn wait_until_listening(
    guest: &Guest,
    server: Running,
    port: u16,
    limit: Duration,
) -> Result<Running> {
    let until = Instant::now() + limit;
    loop {
        for table in ["tcp", "tcp6"] {
            // Its own table: it may be in a network namespace. Once it has ended it has none.
            let table = guest.read_text(&format!("/proc/{}/net/{table}", server.pid()));
            if listens(&table.unwrap_or_default(), port) {
                return Ok(server);
            }
        }
        if server.has_ended()? {
            let output = server.wait(Duration::ZERO)?;
            // It ended well without ever having served: no better than a failure.
            let program = output.command().to_string();
            let text = output.success()?.all_text();
            let what = "the server ended before a client came".into();
            return Err(Error::Unread { program, what, output: text });
        }
        if Instant::now() >= until {
            return Err(server.timed_out(limit));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn listens(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        local.ends_with(&suffix) && fields.nth(1) == Some(LISTEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listening_state_of_that_port_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
             \x20  0: 00000000:4853 00000000:0000 0A 00000000:00000000\n\
             \x20  1: 0100007F:4854 00000000:4853 01 00000000:00000000\n";
        assert!(listens(table, 18_515));
        assert!(!listens(table, 18_516));
        assert!(!listens(table, 0x853));
    }
}
