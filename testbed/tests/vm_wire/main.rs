// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Daemons on two hosts whose RDMA devices are rxe: hosts are machines of the testbed, and guests are processes in
//! them.

mod built;
mod direct;
mod hosts;
mod mended;
mod one_host;
mod overhead;
mod port_events;
mod stock;

use anyhow::{Result, ensure};
use hosts::{Hosts, LIMIT};

/// Lanes alone, both ends of which are of one host.
#[test]
fn lanes_keep_what_they_promise() -> Result<()> {
    let hosts = Hosts::boot()?;
    hosts.run(|hosts| {
        let said = hosts.try_lanes()?;
        // Its figures are not judged, as emulation is what is timed.
        eprintln!("{said}");
        ensure!(said.contains("the device never lacked a receive"), "{said}");
        Ok(())
    })
}

/// Every operation between guests of two hosts, by a daemon on each, over rxe.
#[test]
fn guests_of_two_hosts_reach_each_other_over_rxe() -> Result<()> {
    let hosts = Hosts::boot()?;
    hosts.run(|hosts| {
        let bare = hosts.bare_read()?;
        let daemons = hosts.start_daemons("rxe0")?;
        let said = hosts.guests_talk()?;
        // Not judged: on an emulated machine it is the emulation that is timed.
        eprintln!("{said}READ of 8 bytes by the hosts' own programs, us: {bare:?}");
        for side in [0, 1] {
            let status = hosts.status(side)?;
            let peer = &status["wire"]["peers"][0];
            ensure!(status["wire"]["carrier"] == "rxe0" && peer["connected"] == true, "{status}");
            // The staging rings of the lane, and nothing of the guests.
            let pinned = hosts.pinned_kib(side)?;
            ensure!((1..=8 << 10).contains(&pinned), "{pinned} KiB are pinned");
        }
        drop(daemons);
        Ok(())
    })
}

/// The host's network loses packets, repeats them, and lets them overtake each other: guests see nothing of it.
#[test]
fn a_bad_cable_is_not_seen_by_guests() -> Result<()> {
    let hosts = Hosts::boot()?;
    hosts.run(|hosts| {
        let _daemons = hosts.start_daemons("rxe0")?;
        hosts.spoil_the_cable("delay 300us reorder 1% 25% loss 0.3% duplicate 0.5%")?;
        hosts.guests_talk()?;
        ensure!(hosts.retransmissions()? > 0, "the cable was good");
        Ok(())
    })
}

/// A network interface goes down for longer than the host's device retries, and comes back.
#[test]
fn an_interface_that_was_down_is_used_again() -> Result<()> {
    let hosts = Hosts::boot()?;
    hosts.run(|hosts| {
        let _daemons = hosts.start_daemons("rxe0")?;
        hosts.interface(0, "down")?;
        hosts.until_linked(1, false)?;
        let said = hosts.log(0)?;
        ensure!(said.contains("port of the RDMA device is down"), "{said}");
        hosts.interface(0, "up")?;
        hosts.until_linked(0, true)?;
        hosts.until_linked(1, true)?;
        hosts.guests_talk()?;
        Ok(())
    })
}

/// The host's device goes while daemons use it, and comes back: no daemon has to be started again.
#[test]
fn a_device_that_was_removed_is_used_again() -> Result<()> {
    let hosts = Hosts::boot()?;
    hosts.run(|hosts| {
        let _daemons = hosts.start_daemons("rxe0")?;
        hosts.remove_device(0)?;
        hosts.until_linked(0, false)?;
        hosts.until_linked(1, false)?;
        hosts.bring_device_back(0)?;
        hosts.until_linked(0, true)?;
        hosts.until_linked(1, true)?;
        hosts.guests_talk()?;
        Ok(())
    })
}

/// What a daemon that was killed had made on the host's device goes with it, and the peer notices.
#[test]
fn a_daemon_that_was_killed_leaves_nothing_on_the_device() -> Result<()> {
    let hosts = Hosts::boot()?;
    hosts.run(|hosts| {
        let [left, _right] = hosts.start_daemons("rxe0")?;
        ensure!(hosts.queue_pairs(0)? > 0, "a lane is a queue pair");
        left.signal(9)?;
        left.wait(LIMIT)?;
        ensure!(hosts.queue_pairs(0)? == 0, "queue pairs of a daemon that is gone");
        hosts.until_linked(1, false)?;
        // The next one finds its peer, which was not restarted.
        let _left = hosts.start_daemon(0, "rxe0")?;
        hosts.until_linked(1, true)?;
        hosts.guests_talk()?;
        Ok(())
    })
}

/// Each thing that a user can get wrong about the device is told with what to do.
#[test]
fn what_is_wrong_with_the_device_is_said() -> Result<()> {
    let hosts = Hosts::boot()?;
    hosts.run(|hosts| {
        let said = hosts.refusal("mlx5_9", "")?;
        ensure!(said.contains("no RDMA device \"mlx5_9\"") && said.contains("rxe0"), "{said}");
        let said = hosts.refusal("rxe0", "gid_index = 200")?;
        ensure!(said.contains("no address with GID index 200"), "{said}");
        let said = hosts.refusal("rxe0", "slots = 1")?;
        ensure!(said.contains("wire.slots = 1 is out of range"), "{said}");
        Ok(())
    })
}
