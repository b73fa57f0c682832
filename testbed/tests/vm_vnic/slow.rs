// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages that take long to come: whoever waits for them holds nobody else up, not even those who
//! want it gone.

use anyhow::{Result, ensure};
use vnic_testbed::{
    provision::kernel::Series,
    topology::ADDRESSES,
    vm::hardware::DISK_MODULES,
    workload::{
        rdma::{Device, wait_until_ready},
        vnic,
    },
};

use crate::{
    bed::{Bed, LIMIT, until, with_pair_of},
    counters::nothing_is_held,
    ends::{POISON, neighbours, spaces_and_contexts},
    going::PEER_IS_GONE,
    shell::{Buffer, SUCCESS, Shell, connect},
};

/// What lies on the disk: at [`OPERATIONS`] and a page each it takes minutes to come back.
const BYTES: u64 = 8 << 20;

/// Operations of the disk in a second.
const OPERATIONS: u32 = 2;

pub fn pages_hold_nobody_up(series: Series) -> Result<()> {
    let choose = |config: &mut vnic_testbed::topology::PairConfig| {
        config.kernel_arguments = POISON.into();
        config.hardware.disks = vec![256];
    };
    with_pair_of(series, choose, |bed| {
        let devices = bed.load()?;
        swap_to_the_disk(bed)?;
        let others = neighbours(bed, &devices)?;
        let peer = Shell::start(bed.right(), &devices[1], "peer")?;
        let inbox = peer.buffer(0, "memory", BYTES, 1)?;

        let (victim, buffer) = swapped_out(bed, &devices[0])?;
        starts_to_read(bed, &peer, &inbox, (&victim, &buffer))?;
        others.0.stream_moves()?;
        let waits = bed.status()?.port(0).count("page_requests_outstanding")?;
        ensure!(waits != 0, "the pages came before the neighbours got on");
        victim.kill()?;
        let status = peer.completion()?;
        ensure!(PEER_IS_GONE.contains(&status), "the READ completed with status {status}");
        spaces_and_contexts(bed, 1, 1)?;
        others.1.leave("exit")?;
        others.0.leave("exit")?;
        nothing_is_held(bed, 0)?;

        let device = the_module_goes(bed, &devices[0], &peer, &inbox)?;
        bed.pair.left.limit_disk(0, 0)?;
        everything_comes_back(bed, &device, &peer, &inbox)?;
        peer.leave("exit")?;
        nothing_is_held(bed, 1)
    })
}

/// Without read-ahead, so that each page is an operation of its own.
fn swap_to_the_disk(bed: &Bed) -> Result<()> {
    for module in DISK_MODULES {
        bed.left().run(["modprobe", module], LIMIT)?;
    }
    let script = "set -e; mkswap /dev/vda; swapon /dev/vda; echo 0 >/proc/sys/vm/page-cluster; \
                  test -e /sys/fs/cgroup/cgroup.procs || mount -t cgroup2 none /sys/fs/cgroup; \
                  echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir /sys/fs/cgroup/swapped";
    bed.left().shell(script).limit(LIMIT).run()?;
    Ok(())
}

/// A program with a filled buffer of which nothing is in memory, on a disk that has become slow.
fn swapped_out(bed: &Bed, device: &Device) -> Result<(Shell, Buffer)> {
    let program = Shell::start(bed.left(), device, "swapped")?;
    let group = "/sys/fs/cgroup/swapped";
    bed.left().shell(format!("echo {} >{group}/cgroup.procs", program.pid())).run()?;
    let buffer = program.buffer(0, "memory", BYTES, 1)?;
    program.say(&format!("fill 0 0 {BYTES} 3"))?;
    until("the buffer on the disk", || {
        // Writes out what it can first, and frees what has been written the next time. That it
        // frees less than it was asked for is no failure.
        let reclaim = format!("echo 64M >{group}/memory.reclaim; true");
        bed.left().shell(reclaim).limit(LIMIT).run()?;
        let here = program.resident(&buffer, 0, BYTES)?;
        let info = bed.left().read_text("/proc/meminfo")?;
        let cached = info.lines().find_map(|line| line.strip_prefix("SwapCached:"));
        let cached = cached.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let well = here == 0 && cached.is_some_and(|cached| cached * 1024 < BYTES / 8);
        Ok(if well { Ok(()) } else { Err(format!("{here} pages here, {cached:?} kB cached")) })
    })?;
    bed.pair.left.limit_disk(0, OPERATIONS)?;
    Ok((program, buffer))
}

/// Lets the peer read all of a program's buffer, and waits until the guest is asked for pages.
fn starts_to_read(
    bed: &Bed,
    peer: &Shell,
    inbox: &Buffer,
    (owner, buffer): (&Shell, &Buffer),
) -> Result<()> {
    connect(owner, peer)?;
    peer.say(&format!("read {} 0 {BYTES} {} {}", inbox.slot, buffer.address, buffer.rkey))?;
    until("a page that is waited for", || {
        let waits = bed.status()?.port(0).count("page_requests_outstanding")?;
        Ok(if waits == 0 { Err("none yet".into()) } else { Ok(()) })
    })
}

/// The module is unloaded while its worker waits for the disk.
fn the_module_goes(bed: &Bed, device: &Device, peer: &Shell, inbox: &Buffer) -> Result<Device> {
    let (orphan, buffer) = swapped_out(bed, device)?;
    starts_to_read(bed, peer, inbox, (&orphan, &buffer))?;
    bed.left().run(["modprobe", "-r", vnic::MODULE], LIMIT)?;
    let status = peer.completion()?;
    ensure!(PEER_IS_GONE.contains(&status), "the READ completed with status {status}");
    bed.left().run(["modprobe", vnic::MODULE], LIMIT)?;
    let device = wait_until_ready(bed.left(), vnic::NAME, ADDRESSES[0], LIMIT)?;
    orphan.kill()?;
    nothing_is_held(bed, 0)?;
    Ok(device)
}

/// What lies on the disk is read through it, and is right.
fn everything_comes_back(bed: &Bed, device: &Device, peer: &Shell, inbox: &Buffer) -> Result<()> {
    let (owner, buffer) = swapped_out(bed, device)?;
    bed.pair.left.limit_disk(0, 0)?;
    starts_to_read(bed, peer, inbox, (&owner, &buffer))?;
    let status = peer.completion()?;
    ensure!(status == SUCCESS, "the READ completed with status {status}");
    peer.check(inbox, 0, BYTES, 3)?;
    owner.leave("close")
}
