// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory modules that come and go under traffic: what lies on them is reached at once, and the
//! guest's kernel empties and returns a module whose pages are registered and written to.

use anyhow::{Result, ensure};
use vnic_testbed::{
    guest::Guest,
    provision::kernel::Series,
    vm::{Hardware, Hotplug, Node},
};

use crate::{
    bed::{LIMIT, with_pair_of},
    shell::{Buffer, SUCCESS, Shell, connect},
};

const BYTES: u64 = 8 << 20;
const PAGE: u64 = 4096;
/// Size of the module in MiB.
const MODULE: u32 = 256;
/// The node that has no other memory.
const NODE: u32 = 1;

pub fn changes_under_traffic(series: Series) -> Result<()> {
    let hardware = Hardware {
        nodes: vec![Node::fast(1024, 2), Node::slow(0)],
        hotplug: Some(Hotplug { slots: 2, room: 1024 }),
        ..Hardware::default()
    };
    with_pair_of(
        series,
        |config| config.hardware = hardware,
        |bed| {
            let devices = bed.load()?;
            let left = Shell::start(bed.left(), &devices[0], "left")?;
            let right = Shell::start(bed.right(), &devices[1], "right")?;
            connect(&left, &right)?;
            let source = right.buffer(0, "memory", BYTES, 1)?;
            let target = left.buffer(0, "memory", BYTES, 1)?;
            right.say(&format!("fill 0 0 {BYTES} 1"))?;
            right.stream(&source, BYTES, &target)?;

            let online = "/sys/devices/system/memory/auto_online_blocks";
            bed.left().shell(format!("echo online_movable >{online}")).run()?;
            bed.pair.left.plug_dimm("dimm0", MODULE, NODE)?;
            let meminfo = format!("/sys/devices/system/node/node{NODE}/meminfo");
            let there = format!("grep -q 'MemTotal: *{} kB' {meminfo}", MODULE << 10);
            let wait = format!("until {there} 2>/dev/null; do sleep 0.05; done");
            bed.left().shell(wait).limit(LIMIT).run()?;
            right.stream_moves()?;
            end_of_stream(&left, &right)?;
            left.check(&target, 0, BYTES, 1)?;

            // Memory that no processor has touched: the device's own requests put it on the module.
            let plugged = left.buffer_on(1, BYTES, NODE)?;
            right.say(&format!("fill 0 0 {BYTES} 2"))?;
            right.write(&source, BYTES, &plugged, 0)?;
            lies_on(bed.left(), &left, &plugged, NODE)?;
            left.check(&plugged, 0, BYTES, 2)?;
            // And out of it, into another buffer there.
            let back = right.buffer(1, "memory", BYTES, 1)?;
            right.say(&format!("read 1 0 {BYTES} {} {}", plugged.address, plugged.rkey))?;
            let status = right.completion()?;
            ensure!(status == SUCCESS, "the READ completed with status {status}");
            right.check(&back, 0, BYTES, 2)?;

            // The kernel moves the pages away under the stream, and gives the module back.
            right.stream(&source, BYTES, &plugged)?;
            bed.pair.left.unplug_dimm("dimm0", LIMIT)?;
            right.stream_moves()?;
            lies_on(bed.left(), &left, &plugged, 0)?;
            end_of_stream(&left, &right)?;
            left.check(&plugged, 0, BYTES, 2)?;
            right.say(&format!("fill 0 0 {BYTES} 3"))?;
            right.write(&source, BYTES, &plugged, 0)?;
            left.check(&plugged, 0, BYTES, 3)?;
            left.leave("close")?;
            right.leave("close")
        },
    )
}

/// Ends a stream with its queue pair, and makes new ones.
fn end_of_stream(left: &Shell, right: &Shell) -> Result<()> {
    connect(left, right)
}

/// All pages of `buffer` are there, and on `node`.
fn lies_on(guest: &Guest, shell: &Shell, buffer: &Buffer, node: u32) -> Result<()> {
    let maps = guest.read_text(&format!("/proc/{}/numa_maps", shell.pid()))?;
    let start = format!("{:x} ", buffer.address);
    let line = maps.lines().find(|line| line.trim_start_matches('0').starts_with(&start));
    let wanted = format!(" N{node}={} ", BYTES / PAGE);
    ensure!(line.is_some_and(|line| line.contains(&wanted)), "{wanted:?} is not in {line:?}");
    Ok(())
}
