// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Machines that go without a word, others that take their place, and a daemon that goes.

use anyhow::{Context, Result, ensure};
use vnic_testbed::{
    guest::Guest,
    provision::kernel::Series,
    workload::{rdma::Device, vnic},
};

use crate::{
    bed::{Bed, LIMIT, until, with_pair},
    counters::nothing_is_held,
    dead::the_device_is_dead,
    shell::{Buffer, RETRY_EXCEEDED, Shell, connect},
};

const BYTES: u64 = 1 << 20;

pub fn come_and_go(series: Series) -> Result<()> {
    with_pair(series, "", |bed| {
        let mut devices = bed.load()?;
        let survivor = Shell::start(bed.right(), &devices[1], "survivor")?;
        let buffer = survivor.buffer(0, "memory", BYTES, 1)?;
        both_ways(bed.left(), &devices[0], (&survivor, &buffer), "victim")?;
        bed.pair.left.kill()?;
        let status = survivor.stream_end()?;
        ensure!(status == RETRY_EXCEEDED, "the peer's traffic ended with status {status}");
        port_is_free(bed, 0)?;

        // Another machine on the port, and the same program with a new connection.
        devices[0] = bed.boot_again(0, "left2")?;
        ensure!(bed.status()?.port(0).connections == 2);
        let next = both_ways(bed.left(), &devices[0], (&survivor, &buffer), "next")?;
        next.leave("exit")?;
        survivor.leave("exit")?;
        nothing_is_held(bed, 0)?;
        nothing_is_held(bed, 1)?;

        // The right one ends in good order, the left one is killed; the right one is first again.
        let _off = bed.right().command(["poweroff", "-f"]).spawn()?;
        bed.pair.right.wait(LIMIT)?;
        bed.pair.left.kill()?;
        port_is_free(bed, 0)?;
        port_is_free(bed, 1)?;
        devices[1] = bed.boot_again(1, "right2")?;
        devices[0] = bed.boot_again(0, "left3")?;
        bed.ping_pong(&devices)?;
        the_daemon_goes(bed, &devices)
    })
}

/// Connects a new program to a peer, with traffic in both directions.
fn both_ways(guest: &Guest, device: &Device, peer: (&Shell, &Buffer), name: &str) -> Result<Shell> {
    let shell = Shell::start(guest, device, name)?;
    let buffer = shell.buffer(0, "memory", BYTES, 1)?;
    connect(&shell, peer.0)?;
    peer.0.stream(peer.1, BYTES, &buffer)?;
    shell.stream(&buffer, BYTES, peer.1)?;
    peer.0.stream_moves()?;
    Ok(shell)
}

fn port_is_free(bed: &Bed, side: usize) -> Result<()> {
    until("a free port", || {
        let status = bed.status()?;
        let port = status.port(side);
        let well = !port.connected && !port.driver && port.holds()?.is_empty();
        Ok(if well { Ok(()) } else { Err(format!("{port:?}")) })
    })
}

/// The daemon ends well in the middle of traffic; guests notice, and hang nowhere.
fn the_daemon_goes(bed: &mut Bed, devices: &[Device; 2]) -> Result<()> {
    let peer = Shell::start(bed.right(), &devices[1], "peer")?;
    let buffer = peer.buffer(0, "memory", BYTES, 1)?;
    let shell = both_ways(bed.left(), &devices[0], (&peer, &buffer), "last")?;
    let ended = bed.pair.daemon.take().context("no daemon")?.stop()?;
    ensure!(ended.success(), "the daemon ended with {ended}");

    for (guest, program) in [(bed.left(), &shell), (bed.right(), &peer)] {
        the_device_is_dead(guest, program)?;
    }
    // One program ends before the module goes, the other after it.
    shell.leave("exit")?;
    for guest in [bed.left(), bed.right()] {
        guest.run(["modprobe", "-r", vnic::MODULE], LIMIT)?;
    }
    peer.leave("exit")
}
