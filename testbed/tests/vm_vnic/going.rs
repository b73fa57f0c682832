// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that end in the middle of something, and a module that goes while a program runs.

use anyhow::{Result, ensure};
use vnic_testbed::{
    guest::Running,
    provision::kernel::Series,
    topology::ADDRESSES,
    workload::{
        rdma::{Device, wait_until_ready},
        vnic,
    },
};

use crate::{
    bed::{Bed, LIMIT, kernel_is_content, until, with_pair},
    counters::{held_by_module, nothing_is_held},
    shell::{Buffer, RETRY_EXCEEDED, Shell, connect},
};

/// Size of the buffers of traffic.
pub const BYTES: u64 = 1 << 20;

/// `IBV_EVENT_DEVICE_FATAL`.
pub const DEVICE_FATAL: &str = "8";

/// What a requester may see of a responder that goes: an invalid request, a region or an address
/// space that is no more, or nobody at all.
pub const PEER_IS_GONE: [u64; 4] = [9, 10, 11, RETRY_EXCEEDED];

pub fn frees_everything(series: Series) -> Result<()> {
    with_pair(series, "", |bed| {
        let devices = bed.load()?;
        let survivor = Shell::start(bed.right(), &devices[1], "survivor")?;
        let buffer = survivor.buffer(0, "memory", BYTES, 1)?;
        a_program_goes(bed, &devices[0], (&survivor, &buffer), |shell| shell.leave("exit"))?;
        a_program_goes(bed, &devices[0], (&survivor, &buffer), Shell::kill)?;
        survivor.leave("close")?;
        nothing_is_held(bed, 1)?;
        perftest_is_killed(bed, &devices)?;
        the_module_goes(bed, &devices)
    })
}

/// Begins a program that holds some of everything, with traffic from and to it.
pub fn busy(bed: &Bed, device: &Device, peer: (&Shell, &Buffer)) -> Result<Shell> {
    let shell = Shell::start(bed.left(), device, "busy")?;
    shell.say("hold 8")?;
    let buffer = shell.buffer(0, "memory", BYTES, 1)?;
    connect(&shell, peer.0)?;
    peer.0.stream(peer.1, BYTES, &buffer)?;
    shell.stream(&buffer, BYTES, peer.1)?;
    Ok(shell)
}

/// Whatever a program held is gone with it, and whom it spoke to learns of it and goes on.
fn a_program_goes(
    bed: &Bed,
    device: &Device,
    peer: (&Shell, &Buffer),
    go: impl FnOnce(Shell) -> Result<()>,
) -> Result<()> {
    nothing_is_held(bed, 0)?;
    let shell = busy(bed, device, peer)?;
    let held = held_by_module(bed.left())?;
    for expected in [("ctx", 1), ("pasid", 1), ("pd", 9), ("mr", 9), ("cq", 9), ("qp", 9)] {
        ensure!(held.contains(&expected), "the module holds {held:?}, no {expected:?}");
    }
    let held = bed.status()?.port(0).holds()?;
    let all = [("contexts", 1), ("pasids", 1), ("pds", 9), ("mrs", 9), ("cqs", 9), ("qps", 9)];
    for expected in all {
        ensure!(held.contains(&expected), "the daemon holds {held:?}, no {expected:?}");
    }
    go(shell)?;
    nothing_is_held(bed, 0)?;
    let status = peer.0.stream_end()?;
    ensure!(PEER_IS_GONE.contains(&status), "the peer's traffic ended with status {status}");

    let next = busy(bed, device, peer)?;
    peer.0.stream_moves()?;
    next.stream_moves()?;
    next.leave("exit")
}

/// `kill -9` for both sides of a program of perftest that would go on for ever.
fn perftest_is_killed(bed: &Bed, devices: &[Device; 2]) -> Result<()> {
    const PORT: &str = "17001";
    let start = |side: usize, server: Option<&str>| -> Result<Running> {
        let Device { name, gid_index } = &devices[side];
        let gid = gid_index.to_string();
        let argv = ["ib_write_bw", "-d", name, "-x", &gid, "-p", PORT, "-F", "--run_infinitely"];
        let argv = argv.into_iter().chain(server);
        Ok(bed.pair.guests()[side].command(argv).spawn()?)
    };
    let server = start(0, None)?;
    until("a listening server", || {
        let listens = bed.left().shell("grep -qi ':4269 .* 0A ' /proc/net/tcp /proc/net/tcp6");
        let found = listens.output()?.success().is_ok();
        Ok(if found { Ok(()) } else { Err("nothing listens".into()) })
    })?;
    let client = start(1, Some(ADDRESSES[0]))?;
    let carried = || bed.status()?.port(1).count("bytes");
    let before = carried()?;
    until("traffic of perftest", || {
        let now = carried()?;
        Ok(if now > before + (4 << 20) { Ok(()) } else { Err(format!("{now} bytes")) })
    })?;
    for side in [0, 1] {
        let held = bed.status()?.port(side).holds()?;
        ensure!(held.contains(&("qps", 1)), "the daemon holds {held:?}");
    }
    // The server may end by itself as soon as its client is gone.
    for (side, program) in [(1, client), (0, server)] {
        program.signal(9)?;
        program.wait(LIMIT)?;
        nothing_is_held(bed, side)?;
    }
    bed.ping_pong(devices)
}

/// The module is unloaded while a program has a context open and traffic under way.
fn the_module_goes(bed: &Bed, devices: &[Device; 2]) -> Result<()> {
    let peer = Shell::start(bed.right(), &devices[1], "peer")?;
    let buffer = peer.buffer(0, "memory", BYTES, 1)?;
    let orphan = busy(bed, &devices[0], (&peer, &buffer))?;
    bed.left().run(["modprobe", "-r", vnic::MODULE], LIMIT)?;
    until("the daemon without a driver", || {
        let status = bed.status()?;
        let (driver, held) = (status.port(0).driver, status.port(0).holds()?);
        let well = !driver && held.is_empty();
        Ok(if well { Ok(()) } else { Err(format!("driver {driver}, holds {held:?}")) })
    })?;
    let status = peer.stream_end()?;
    ensure!(PEER_IS_GONE.contains(&status), "the peer's traffic ended with status {status}");
    let events = orphan.say("events")?;
    let told = events.text("events")?.split(',').any(|event| event == DEVICE_FATAL);
    ensure!(told, "the program was not told: {events:?}");
    kernel_is_content(bed.left())?;

    // Loaded again while the program of before still lives.
    bed.left().run(["modprobe", vnic::MODULE], LIMIT)?;
    let device = wait_until_ready(bed.left(), vnic::NAME, ADDRESSES[0], LIMIT)?;
    let again = [device, devices[1].clone()];
    bed.ping_pong(&again)?;
    orphan.kill()?;
    nothing_is_held(bed, 0)?;
    bed.ping_pong(&again)?;
    peer.leave("exit")?;
    nothing_is_held(bed, 1)
}
