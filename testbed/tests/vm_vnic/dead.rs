// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A daemon that crashes or hangs while guests are in the middle of everything: whatever their
//! programs do then ends in time.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use vnic_testbed::{
    guest::Guest,
    provision::kernel::Series,
    topology::ADDRESSES,
    workload::{
        rdma::{Device, wait_until_ready},
        vnic,
    },
};

use crate::{
    bed::{Bed, LIMIT, until, with_pair},
    counters::{held_by_module, nothing_is_held, of_module},
    ends::{POISON, gets_little_memory, much_is_missing, the_kernel_killed},
    going::{BYTES, DEVICE_FATAL, busy},
    shell::Shell,
};

/// More memory than the greedy program may have.
const MORE: u64 = 64 << 20;

/// A crash. What the device held is kept until the module goes, and is not lost then.
pub fn killed(series: Series) -> Result<()> {
    with_pair(series, POISON, |bed| {
        let devices = bed.load()?;
        let peers = everybody_ends(bed, &devices, Signal::KILL)?;
        bed.pair.daemon.take().context("no daemon")?;
        for guest in bed.pair.guests() {
            guest.run(["modprobe", "-r", vnic::MODULE], LIMIT)?;
            guest.shell(format!("test ! -e /sys/module/{}", vnic::MODULE)).run()?;
        }
        peers.into_iter().try_for_each(|peer| peer.leave("exit"))
    })
}

/// A hang, in the middle of a burst perhaps, of which the device recovers too late. What it does
/// then reaches nobody, and a new driver can use it.
pub fn frozen(series: Series) -> Result<()> {
    with_pair(series, POISON, |bed| {
        let mut devices = bed.load()?;
        let peers = everybody_ends(bed, &devices, Signal::STOP)?;
        bed.pair.daemon.as_ref().context("no daemon")?.signal(Signal::CONT)?;
        peers.into_iter().try_for_each(|peer| peer.leave("exit"))?;
        for (side, guest) in bed.pair.guests().into_iter().enumerate() {
            guest.run(["modprobe", "-r", vnic::MODULE], LIMIT)?;
            guest.run(["modprobe", vnic::MODULE], LIMIT)?;
            devices[side] = wait_until_ready(guest, vnic::NAME, ADDRESSES[side], LIMIT)?;
            ensure!(of_module(guest)?["dead"] == 0, "the device is still dead");
        }
        bed.ping_pong(&devices)?;
        nothing_is_held(bed, 0)?;
        nothing_is_held(bed, 1)
    })
}

/// Sends the daemon a signal that stops it, and lets the programs of the left guest end, each in its
/// own way. Returns those of the right guest, which have noticed, too.
fn everybody_ends(bed: &Bed, devices: &[Device; 2], how: Signal) -> Result<Vec<Shell>> {
    let (left, right) = (bed.left(), bed.right());
    let mut peers = Vec::new();
    for name in ["peer0", "peer1"] {
        peers.push(Shell::start(right, &devices[1], name)?);
    }
    let buffer = peers[0].buffer(0, "memory", BYTES, 1)?;
    let parent = busy(bed, &devices[0], (&peers[0], &buffer))?;
    let child = parent.say("child")?.number("pid")?;
    let other = Shell::start(left, &devices[0], "other")?;
    let stranger = Shell::start(left, &devices[0], "stranger")?;
    let starved = Shell::start(left, &devices[0], "starved")?;
    let greedy = Shell::start(left, &devices[0], "greedy")?;
    gets_little_memory(left, &greedy)?;
    greedy.buffer(0, "memory", MORE, 1)?;
    much_is_missing(bed, &starved, &peers[1])?;
    bed.pair.daemon.as_ref().context("no daemon")?.signal(how)?;

    // Its pages are asked for and nobody takes the answer.
    starved.kill()?;
    parent.leave("exit")?;
    other.say("exec 0")?;
    other.kill()?;
    left.shell(format!("kill -9 {child}")).run()?;
    let pid = greedy.pid();
    let ended = greedy.leave(&format!("fill 0 0 {MORE} 1"));
    ensure!(ended.is_err(), "the greedy program ended well");
    the_kernel_killed(left, pid)?;
    stranger.say("hold 1").err().context("a dead device made new objects")?;
    for (guest, program) in [(left, &stranger), (right, &peers[0])] {
        the_device_is_dead(guest, program)?;
    }
    stranger.leave("exit")?;
    // What the device may still write to is kept for it, and only that.
    let held = held_by_module(left)?;
    let kept = held.iter().all(|(name, _)| ["pages", "buried"].contains(name));
    ensure!(kept, "the module still holds {held:?}");
    Ok(peers)
}

/// Waits until the module has found out, and has told a program.
pub fn the_device_is_dead(guest: &Guest, program: &Shell) -> Result<()> {
    until("a device that counts as dead", || {
        let dead = of_module(guest)?["dead"];
        Ok(if dead == 1 { Ok(()) } else { Err("it counts as alive".into()) })
    })?;
    until("the event of a dead device", || {
        let events = program.say("events")?;
        let told = events.text("events")?.split(',').any(|event| event == DEVICE_FATAL);
        Ok(if told { Ok(()) } else { Err(format!("{events:?}")) })
    })
}
