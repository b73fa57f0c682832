// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests that are processes and carry everything out with each other.

use anyhow::{Context, Result, ensure};
use vnic_testbed::guest::Place;

use super::hosts::LIMIT;

/// Where two guests meet.
const MEETING_PORT: u16 = 18700;

/// Has two guests carry everything out with each other, each on a port of a daemon: where it runs, the port's socket, and the
/// last part of its address. They meet at `address`, which is of the first; returns what the second prints, which leads.
pub fn guests_talk(guests: [(&Place, &str, u8); 2], address: &str) -> Result<String> {
    let guest = |(place, socket, host): (&Place, &str, u8), how: &str| {
        let (host, meeting) = (host.to_string(), format!("{address}:{MEETING_PORT}"));
        let argv = ["wire_guest", "--socket", socket, "--host", &host, how, &meeting];
        place.command(argv).limit(4 * LIMIT)
    };
    let [follows, leads] = guests;
    let follower = guest(follows, "--listen").spawn()?;
    follower.wait_for_output("listening", LIMIT)?;
    let led = guest(leads, "--connect").run().with_context(|| {
        let followed = follower.output_so_far().map(|output| output.all_text());
        format!("the guest that follows has printed: {}", followed.unwrap_or_default())
    })?;
    follower.wait(LIMIT)?.success()?;
    let said = led.stdout_text();
    ensure!(said.contains("\"op\":\"all\""), "{said}");
    Ok(said)
}
