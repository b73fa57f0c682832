// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything in a single host: daemons, and guests that are processes. Cheaper than two machines, and with a cable that can
//! be made as bad as one likes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vnic_testbed::{
    lab::{Cable, DaemonPort, HostDaemon, HostVm, Netem, PORT, PROGRAM, programs, wired},
    provision::{Provision, workspace::Workspace},
};

use super::{built::guests_talk, hosts::LIMIT, stock::was_mended_by_sending_again};

#[test]
fn a_daemon_serves_two_guests_in_a_host() -> Result<()> {
    let since = Instant::now();
    let host = boot()?;
    eprintln!("{:?} until the host has its programs", since.elapsed());
    let place = host.place();
    let version = place.run([PROGRAM, "--version"], LIMIT)?.stdout_text();
    ensure!(version.starts_with("vnic "), "{version}");

    let ports = [port("a", 1), port("b", 2)];
    let daemon = HostDaemon::start(&place, "daemon", &ports, "", &["--workers", "1"])?;
    let status = daemon.status()?;
    let names = status["ports"].as_array().into_iter().flatten().map(|port| &port["name"]);
    ensure!(names.eq(["a", "b"].iter()), "{status}");
    let (a, b) = (daemon.socket("a"), daemon.socket("b"));
    let said = guests_talk([(&place, &a, 1), (&place, &b, 2)], "127.0.0.1")?;
    eprintln!("{said}");
    daemon.stop()?;

    // One that cannot start says why.
    let error = HostDaemon::start(&place, "other", &[], "", &["--no-such-option"]);
    let error = error.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains("no-such-option"), "{error}");
    Ok(())
}

#[test]
fn daemons_of_one_host_reach_each_other_over_a_bad_cable() -> Result<()> {
    let host = boot()?;
    let cable = Cable::lay(host.guest())?;
    let daemons = wired(cable.ends(), &["--workers", "1"])?;
    let (delay, jitter) = (Duration::from_micros(300), Duration::ZERO);
    cable.spoil(&Netem { delay, jitter, loss: 0.3, duplicate: 0.5, reorder: 1.0 })?;
    let before = cable.counters()?;
    let [east, west] = cable.ends();
    let sockets = [daemons[0].socket(PORT), daemons[1].socket(PORT)];
    let guests = [(&east.place, &*sockets[0], 1), (&west.place, &*sockets[1], 2)];
    let said = guests_talk(guests, &east.address)?;
    eprintln!("{said}");
    let after = cable.counters()?;
    let grown = [after[0].since(&before[0]), after[1].since(&before[1])];
    was_mended_by_sending_again(&grown)?;
    for daemon in daemons {
        daemon.stop()?;
    }
    Ok(())
}

pub fn boot() -> Result<HostVm> {
    let workspace = Workspace::here();
    let programs = programs(&workspace)?;
    Ok(HostVm::boot(&Provision::prepare(workspace)?, &programs)?)
}

pub fn port(name: &str, number: u8) -> DaemonPort {
    DaemonPort::new(name, number)
}
