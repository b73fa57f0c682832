// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ends that programs seldom think of: a child that lives longer than what it was forked from,
//! another program in the same process, no memory left, and a module that goes while the kernel
//! still looks for pages.

use anyhow::{Result, ensure};
use vnic_testbed::{
    complaint::complaints,
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
    counters::{nothing_is_held, of_module},
    going::{BYTES, DEVICE_FATAL, PEER_IS_GONE, busy},
    shell::{Buffer, Shell, connect},
};

/// Pages and objects are filled when they are freed, and looked at when they are used again: a
/// device that writes too late is found out.
pub const POISON: &str = "page_poison=1 slub_debug=FZP";

/// More than the kernel provides in a moment.
const MUCH: u64 = 256 << 20;

/// Times that the module goes while pages are looked for.
const ROUNDS: usize = 4;

pub fn in_any_order(series: Series) -> Result<()> {
    with_pair(series, POISON, |bed| {
        let devices = bed.load()?;
        let others = neighbours(bed, &devices)?;
        let peer = Shell::start(bed.right(), &devices[1], "peer")?;
        let buffer = peer.buffer(0, "memory", BYTES, 1)?;
        a_child_stays(bed, &devices[0], (&peer, &buffer))?;
        another_program_takes_over(bed, &devices[0], (&peer, &buffer), false)?;
        another_program_takes_over(bed, &devices[0], (&peer, &buffer), true)?;
        memory_runs_out(bed, &devices[0], &peer)?;
        others.0.stream_moves()?;
        others.1.leave("exit")?;
        nothing_is_held(bed, 0)?;
        others.0.leave("exit")?;
        let mut device = devices[0].clone();
        for _ in 0..ROUNDS {
            device = the_module_goes_during_faults(bed, &device, &peer)?;
        }
        peer.leave("exit")?;
        nothing_is_held(bed, 1)?;
        bed.ping_pong(&[device, devices[1].clone()])
    })
}

/// Programs on both sides whom nothing of all this concerns; the first one, on the right, writes.
pub fn neighbours(bed: &Bed, devices: &[Device; 2]) -> Result<(Shell, Shell)> {
    let left = Shell::start(bed.left(), &devices[0], "neighbour")?;
    let right = Shell::start(bed.right(), &devices[1], "neighbour")?;
    let (to, from) = (left.buffer(0, "memory", BYTES, 1)?, right.buffer(0, "memory", BYTES, 1)?);
    connect(&left, &right)?;
    right.stream(&from, BYTES, &to)?;
    Ok((right, left))
}

/// The address space goes with the parent; the context stays for as long as the child has its file.
fn a_child_stays(bed: &Bed, device: &Device, peer: (&Shell, &Buffer)) -> Result<()> {
    for kill in [false, true] {
        let parent = busy(bed, device, peer)?;
        let child = parent.say("child")?.number("pid")?;
        if kill {
            parent.kill()?
        } else {
            parent.leave("exit")?
        }
        let status = peer.0.stream_end()?;
        ensure!(PEER_IS_GONE.contains(&status), "the peer's traffic ended with status {status}");
        spaces_and_contexts(bed, 1, 2)?;
        bed.left().shell(format!("kill -9 {child}")).run()?;
        spaces_and_contexts(bed, 1, 1)?;
    }
    Ok(())
}

/// `execve` with and without the files of the device.
fn another_program_takes_over(
    bed: &Bed,
    device: &Device,
    peer: (&Shell, &Buffer),
    keep: bool,
) -> Result<()> {
    let program = busy(bed, device, peer)?;
    program.say(&format!("exec {}", u8::from(keep)))?;
    let status = peer.0.stream_end()?;
    ensure!(PEER_IS_GONE.contains(&status), "the peer's traffic ended with status {status}");
    // Only the neighbour's are left, and the context if its file is still open.
    spaces_and_contexts(bed, 1, if keep { 2 } else { 1 })?;
    program.kill()?;
    spaces_and_contexts(bed, 1, 1)
}

/// Waits until the daemon holds so many address spaces and contexts for the left guest.
pub fn spaces_and_contexts(bed: &Bed, spaces: u64, contexts: u64) -> Result<()> {
    until("what is left", || {
        let status = bed.status()?;
        let port = status.port(0);
        let now = (port.count("pasids")?, port.count("contexts")?);
        Ok(if now == (spaces, contexts) { Ok(()) } else { Err(format!("{now:?}")) })
    })
}

/// A peer fills a buffer that is larger than what its owner may have, until the kernel kills it.
fn memory_runs_out(bed: &Bed, device: &Device, peer: &Shell) -> Result<()> {
    const SIZE: u64 = 64 << 20;
    let victim = Shell::start(bed.left(), device, "victim")?;
    gets_little_memory(bed.left(), &victim)?;
    let target = victim.buffer(0, "memory", SIZE, 1)?;
    let source = peer.buffer(1, "memory", SIZE, 1)?;
    connect(&victim, peer)?;
    peer.say(&format!("write 1 0 {SIZE} {} {}", target.address, target.rkey))?;
    let pid = victim.pid();
    let ended = victim.ended()?;
    ensure!(ended.success().is_err(), "the victim ended well");
    let status = peer.completion()?;
    ensure!(PEER_IS_GONE.contains(&status), "the WRITE completed with status {status}");
    ensure!(source.rkey != 0);
    spaces_and_contexts(bed, 1, 1)?;
    the_kernel_killed(bed.left(), pid)
}

/// Puts a program where it may have 16 MiB of memory.
pub fn gets_little_memory(guest: &Guest, program: &Shell) -> Result<()> {
    const GROUP: &str = "/sys/fs/cgroup/small";
    let script = format!(
        "set -e; test -e /sys/fs/cgroup/cgroup.procs || mount -t cgroup2 none /sys/fs/cgroup; \
         echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p {GROUP}; \
         echo 16M >{GROUP}/memory.max; echo {} >{GROUP}/cgroup.procs",
        program.pid()
    );
    guest.shell(script).run()?;
    Ok(())
}

/// The kernel's report of it looks like a complaint, and is taken out of the log.
pub fn the_kernel_killed(guest: &Guest, pid: i32) -> Result<()> {
    let log = guest.dmesg()?;
    let killed = format!("Memory cgroup out of memory: Killed process {pid} ");
    ensure!(log.contains(&killed), "the log of the kernel says nothing of that:\n{log}");
    let mut reporting = false;
    let rest = log.lines().filter(|line| {
        reporting |= line.contains("invoked oom-killer");
        let keep = !reporting;
        reporting &= !line.contains("out of memory: Killed process");
        keep
    });
    if let Some(line) = complaints(&rest.collect::<Vec<_>>().join("\n")).next() {
        anyhow::bail!("the kernel complained: {line}");
    }
    guest.run(["dmesg", "-c"], LIMIT)?;
    Ok(())
}

/// Returns the device as it is after the module has come back.
fn the_module_goes_during_faults(bed: &Bed, device: &Device, peer: &Shell) -> Result<Device> {
    let orphan = Shell::start(bed.left(), device, "orphan")?;
    much_is_missing(bed, &orphan, peer)?;
    bed.left().run(["modprobe", "-r", vnic::MODULE], LIMIT)?;
    let status = peer.stream_end()?;
    ensure!(PEER_IS_GONE.contains(&status), "the peer's traffic ended with status {status}");
    let events = orphan.say("events")?;
    let told = events.text("events")?.split(',').any(|event| event == DEVICE_FATAL);
    ensure!(told, "the program was not told: {events:?}");
    bed.left().run(["modprobe", vnic::MODULE], LIMIT)?;
    let device = wait_until_ready(bed.left(), vnic::NAME, ADDRESSES[0], LIMIT)?;
    orphan.kill()?;
    nothing_is_held(bed, 0)?;
    Ok(device)
}

/// A peer begins to write into much memory that is not there, and the kernel has begun to provide
/// it but has not finished.
pub fn much_is_missing(bed: &Bed, owner: &Shell, peer: &Shell) -> Result<()> {
    let pages = || Ok::<_, anyhow::Error>(of_module(bed.left())?["fault_pages"]);
    let target = owner.buffer(0, "memory", MUCH, 1)?;
    peer.buffer(2, "memory", MUCH, 1)?;
    connect(owner, peer)?;
    let before = pages()?;
    peer.say(&format!("stream 2 {MUCH} {} {}", target.address, target.rkey))?;
    until("the first pages", || {
        let now = pages()?;
        Ok(if now > before { Ok(()) } else { Err("none yet".into()) })
    })?;
    let there = pages()? - before;
    ensure!(there < MUCH / 4096, "all {there} pages are there already");
    Ok(())
}
