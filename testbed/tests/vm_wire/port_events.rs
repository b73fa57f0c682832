// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What guests are told when the host's device goes and comes back, and that those who reach each other without it go on.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vnic_testbed::{
    guest::{Place, Running},
    lab::{Cable, DaemonPort, HostDaemon, start, until_linked},
};

use super::{
    hosts::LIMIT,
    one_host::{boot, port},
};

#[test]
fn guests_are_told_when_the_hosts_device_goes_and_when_it_is_back() -> Result<()> {
    let host = boot()?;
    let cable = Cable::lay(host.guest())?;
    let mut lonely = port("lonely", 3);
    lonely.network = "other".into();
    let daemon =
        |side: usize, ports: &[DaemonPort]| start(cable.ends(), side, ports, &["--workers", "1"]);
    let east = daemon(0, &[port("a", 1), port("b", 2), lonely])?;
    let west = daemon(1, &[port("vm", 9)])?;
    until_linked(&east)?;
    let place = &cable.ends()[0].place;
    let sockets = ["a", "b", "lonely"].map(|name| east.socket(name));
    let mut argv = vec!["port_events".to_string(), "2".into()];
    argv.extend(sockets);
    let guests = place.command(argv).limit(4 * LIMIT).spawn()?;
    guests.wait_for_output("ready", LIMIT)?;

    // The interface goes down and comes back.
    round(&east, &guests, place, "ip link set veth0 down", "ip link set veth0 up", 1)?;
    until_linked(&east)?;
    // The device goes, and there is another one of its name.
    let add = "rdma link add rxe0 type rxe netdev veth0";
    round(&east, &guests, place, "rdma link delete rxe0", add, 2)?;
    until_linked(&east)?;
    until_linked(&west)?;

    let said = guests.wait(LIMIT)?.success()?.stdout_text();
    eprintln!("{said}");
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.collect::<Vec<_>>();
    for number in 0..3 {
        let told = lines.iter().filter(|line| line["port"] == number);
        let told = told.map(|line| (&line["event"], &line["partly"]));
        let partly = Value::from(number < 2);
        let (down, up) = (Value::from("PortDown"), Value::from("PortUp"));
        let wanted = [(&down, &partly), (&up, &partly), (&down, &partly), (&up, &partly)];
        ensure!(told.eq(wanted), "port {number}: {said}");
    }
    let meanwhile = lines.last().and_then(|line| line["meanwhile"].as_u64());
    ensure!(meanwhile.context("a number of WRITEs")? > 0, "{said}");
    east.stop()?;
    west.stop()?;
    Ok(())
}

/// Has the device go and come back, and waits each time until all three guests were told.
fn round(
    daemon: &HostDaemon,
    guests: &Running,
    place: &Place,
    go: &str,
    come: &str,
    number: usize,
) -> Result<()> {
    for (command, kind, up) in [(go, "PortDown", false), (come, "PortUp", true)] {
        place.shell(command).limit(LIMIT).run()?;
        let end = Instant::now() + LIMIT;
        loop {
            let said = guests.output_so_far()?.all_text();
            let told = said.matches(kind).count();
            if told == 3 * number {
                break;
            }
            let log = || daemon.log().unwrap_or_default();
            ensure!(Instant::now() < end, "told {told} times of {kind}: {said}\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
        let status = daemon.status()?;
        ensure!(status["wire"]["up"] == up, "{status}");
    }
    Ok(())
}
