// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a program in a guest hears of its port when the RDMA device of the host goes and comes back.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use vnic_testbed::{guest::Running, lab::GuestsOfHosts, topology::NETDEV};

use super::LIMIT;

/// The verbs program that says which events have come.
const PROGRAM: &str = "verbs-shell";
const SCRIPT: &str = "/tmp/port.script";

/// `IBV_EVENT_PORT_ACTIVE` and `IBV_EVENT_PORT_ERR`.
const ACTIVE: &str = "9,";
const ERROR: &str = "10,";

/// Takes the left host's device away and brings it back.
pub fn goes_and_comes_back(bed: &GuestsOfHosts) -> Result<()> {
    let (guest, device) = (bed.guests()[0], &bed.devices()[0]);
    guest.write_file(SCRIPT, b"", 0o600)?;
    let gid = device.gid_index.to_string();
    let program = guest.command([PROGRAM, &device.name, &gid, SCRIPT]).spawn()?;
    program.wait_for_output("0 ok", LIMIT)?;
    let mut script = String::new();
    let host = bed.hosts().guests()[0];
    let add = format!("rdma link add rxe0 type rxe netdev {NETDEV}");
    for (command, event, state) in
        [("rdma link delete rxe0", ERROR, "DOWN"), (&add, ACTIVE, "ACTIVE")]
    {
        host.shell(command).limit(LIMIT).run()?;
        let until = Instant::now() + LIMIT;
        loop {
            let heard = events(bed, &program, &mut script)?;
            if heard == event {
                break;
            }
            ensure!(heard.is_empty(), "after `{command}`: the event {heard}");
            ensure!(Instant::now() < until, "no event {event} after `{command}`");
            thread::sleep(Duration::from_millis(200));
        }
        let path = format!("/sys/class/infiniband/{}/ports/1/state", device.name);
        let found = guest.read_text(&path)?;
        ensure!(found.ends_with(state), "after `{command}` the port is {found}");
    }
    bed.wait_for_the_wire()?;
    Ok(())
}

/// Numbers of the asynchronous events that have come since the last time, each with a comma behind it.
fn events(bed: &GuestsOfHosts, program: &Running, script: &mut String) -> Result<String> {
    let number = script.lines().count() + 1;
    script.push_str(&format!("{number} events\n"));
    bed.guests()[0].write_file(SCRIPT, script.as_bytes(), 0o600)?;
    program.wait_for_output(&format!("\n{number} ok events="), LIMIT)?;
    let until = Instant::now() + LIMIT;
    loop {
        let said = program.output_so_far()?.stdout_text();
        // Half a line may be there.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let start = format!("{number} ok events=");
        if let Some(found) = whole.lines().find_map(|line| line.strip_prefix(&start)) {
            return Ok(found.into());
        }
        ensure!(Instant::now() < until, "{said}");
        thread::sleep(Duration::from_millis(50));
    }
}
