// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Daemons of two hosts with a wire between them.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{DaemonPort, HostDaemon, SIDES};
use crate::{
    error::{Error, Result},
    workload::end::End,
};

/// Where a daemon listens for its peer.
const WIRE_PORT: u16 = 18600;

/// The key of the pair, which keeps nobody out: the network has these two hosts only.
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// How long a link may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The port that each daemon has for guests that meet guests.
pub const PORT: &str = "vm";
/// The port that each daemon has for guests that meet programs of other hosts, by the address of their own host.
pub const DIRECT_PORT: &str = "direct";

/// The text of a configuration file: a daemon that is `names[0]` and listens at `addresses[0]`, and its peer. `direct` if it has a
/// port that goes direct.
pub fn configuration(names: [&str; 2], addresses: [&str; 2], direct: bool) -> String {
    let direct = if direct { "[direct]\naddresses = 'mapped'\n" } else { "" };
    let ([name, peer], [own, theirs]) = (names, addresses);
    format!(
        "[wire]\nname = '{name}'\nlisten = '{own}'\n\
         [[peer]]\nname = '{peer}'\naddress = '{theirs}'\nkey = '{KEY}'\n\
         {direct}"
    )
}

/// Starts a daemon at each end, with ports called [`PORT`] and [`DIRECT_PORT`] and the end's device as its wire, and waits for the link.
/// `arguments` are added to `vnic run`.
///
/// # Errors
/// When one does not start, or there is no link in time; with what it has logged.
pub fn wired(ends: &[End; 2], arguments: &[&str]) -> Result<[HostDaemon; 2]> {
    let start = |side: usize| {
        let number = side as u8;
        let ports =
            [DaemonPort::new(PORT, number + 1), DaemonPort::direct(DIRECT_PORT, number + 11)];
        start(ends, side, &ports, arguments)
    };
    let daemons = [start(0)?, start(1)?];
    for daemon in &daemons {
        until_linked(daemon)?;
    }
    Ok(daemons)
}

/// Starts the daemon of one end, with these ports and the end's device as its wire to the other end's daemon.
/// `arguments` are added to `vnic run`.
///
/// # Errors
/// When it does not start; with what it has logged.
pub fn start(
    ends: &[End; 2],
    side: usize,
    ports: &[DaemonPort],
    arguments: &[&str],
) -> Result<HostDaemon> {
    let (own, theirs) = (&ends[side], &ends[1 - side]);
    let addresses = [own, theirs].map(|end| format!("{}:{WIRE_PORT}", end.address));
    let names = [SIDES[side], SIDES[1 - side]];
    let direct = ports.iter().any(|port| port.direct);
    let text = configuration(names, [addresses[0].as_str(), addresses[1].as_str()], direct);
    let arguments = [&["--wire", &own.device.name], arguments].concat();
    HostDaemon::start(&own.place, SIDES[side], ports, &text, &arguments)
}

/// Waits until a daemon has a link to its first peer.
///
/// # Errors
/// When there is none in time.
pub fn until_linked(daemon: &HostDaemon) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while daemon.status()?["wire"]["peers"][0]["connected"] != true {
        if Instant::now() > end {
            let log = daemon.log().unwrap_or_default();
            let what = format!("the daemons have no link in {LIMIT:?}; one has logged:\n{log}");
            return Err(Error::unfit(what, "See whether the hosts reach each other (ping)."));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_both() {
        let text = configuration(["a", "b"], ["10.0.0.1:1", "10.0.0.2:2"], false);
        for part in ["name = 'a'\nlisten = '10.0.0.1:1'", "name = 'b'\naddress = '10.0.0.2:2'"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("[direct]"), "{text}");
    }
}
