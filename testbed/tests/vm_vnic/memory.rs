// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Registered memory that is not there yet, and that nobody pins.

use std::time::Duration;

use anyhow::{Result, ensure};
use vnic_testbed::{provision::kernel::Series, workload::rxe};

use crate::{
    bed::{Bed, with_pair},
    counters::{nothing_is_held, of_module},
    shell::{Buffer, SUCCESS, Shell, connect},
};

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;

pub fn is_not_pinned(series: Series) -> Result<()> {
    with_pair(series, "", |bed| {
        let devices = bed.load()?;
        for guest in bed.pair.guests() {
            // Address space without memory behind it, as much as a program likes.
            guest.shell("echo 1 >/proc/sys/vm/overcommit_memory").run()?;
        }
        let left = Shell::start(bed.left(), &devices[0], "left")?;
        let right = Shell::start(bed.right(), &devices[1], "right")?;
        connect(&left, &right)?;
        fresh_memory_is_a_target(bed, &left, &right)?;
        much_more_than_there_is(&left, &right)?;
        traffic_pins_nothing(bed, &left, &right)?;
        left.leave("close")?;
        right.leave("close")?;
        nothing_is_held(bed, 0)?;
        nothing_is_held(bed, 1)?;
        another_device_does_pin(bed)
    })
}

/// Memory from `malloc` that no processor has touched: as a WRITE target, a receive buffer, and as
/// the source of a READ, of which both sides are missing.
fn fresh_memory_is_a_target(bed: &Bed, left: &Shell, right: &Shell) -> Result<()> {
    const BYTES: u64 = 1 << 20;
    let source = right.buffer(0, "heap", BYTES, 1)?;
    right.say(&format!("fill 0 0 {BYTES} 5"))?;
    let requests = || bed.status()?.port(0).count("page_requests");

    let target = left.buffer(0, "heap", BYTES, 1)?;
    // But for the first page, which holds what malloc notes.
    ensure!(left.resident(&target, PAGE, BYTES - PAGE)? == 0, "the target was touched");
    let before = requests()?;
    right.write(&source, BYTES - PAGE, &target, PAGE)?;
    let after = requests()?;
    ensure!(after > before, "{before} page requests before, {after} after");
    let here = left.resident(&target, PAGE, BYTES - PAGE)?;
    ensure!(here == pages(&target, PAGE, BYTES - PAGE), "{here} pages of the target are there");
    left.check(&target, PAGE, BYTES - PAGE, 5)?;

    let inbox = left.buffer(1, "heap", BYTES, 1)?;
    ensure!(left.resident(&inbox, PAGE, BYTES - PAGE)? == 0, "the inbox was touched");
    left.say(&format!("recv 1 {PAGE} 65536"))?;
    right.say("send 0 0 65536")?;
    for shell in [right, left] {
        let status = shell.completion()?;
        ensure!(status == SUCCESS, "the SEND completed with status {status}");
    }
    ensure!(requests()? > after, "the receive buffer needed no page request");
    left.check(&inbox, PAGE, 65536, 5)?;

    let (into, there) = (left.buffer(2, "heap", BYTES, 1)?, right.buffer(2, "heap", BYTES, 1)?);
    ensure!(right.resident(&there, PAGE, BYTES - PAGE)? == 0, "the source was touched");
    left.say(&format!("read 2 {PAGE} 65536 {} {}", there.address + PAGE, there.rkey))?;
    let status = left.completion()?;
    ensure!(status == SUCCESS, "the READ completed with status {status}");
    let here = left.resident(&into, PAGE, 65536)?;
    ensure!(here == pages(&into, PAGE, 65536), "{here} pages were read into");
    for (name, guest) in [("left", bed.left()), ("right", bed.right())] {
        let served = of_module(guest)?["faults_served"];
        ensure!(served > 0, "the module of the {name} guest has served no page request");
    }
    Ok(())
}

/// Number of pages in which a part of a buffer lies.
fn pages(buffer: &Buffer, offset: u64, bytes: u64) -> u64 {
    let start = buffer.address + offset;
    (start + bytes).div_ceil(PAGE) - start / PAGE
}

/// 64 GiB in a guest of 1 GiB: registered in no time, and a page in the middle works.
fn much_more_than_there_is(left: &Shell, right: &Shell) -> Result<()> {
    const BYTES: u64 = 64 * GIB;
    let huge = left.buffer(3, "memory", BYTES, 50)?;
    eprintln!("registering 64 GiB took {:?}", huge.registration);
    ensure!(huge.registration < Duration::from_millis(1), "{:?}", huge.registration);
    let source = right.buffer(3, "memory", 3 * PAGE, 1)?;
    right.say(&format!("fill 3 0 {} 9", 3 * PAGE))?;
    // Not aligned to pages, but for the last.
    for offset in [BYTES / 2 + 100, 0, BYTES - 3 * PAGE] {
        let bytes = 2 * PAGE + 1000;
        ensure!(left.resident(&huge, offset, bytes)? == 0, "{offset:#x} was touched");
        right.write(&source, bytes, &huge, offset)?;
        let here = left.resident(&huge, offset, bytes)?;
        ensure!(here == pages(&huge, offset, bytes), "{here} pages at {offset:#x} are there");
        left.check(&huge, offset, bytes, 9)?;
    }
    Ok(())
}

/// While data arrives, `/proc` says that the process has nothing pinned and nothing locked.
fn traffic_pins_nothing(bed: &Bed, left: &Shell, right: &Shell) -> Result<()> {
    const BYTES: u64 = 4 << 20;
    let target = left.buffer(4, "memory", BYTES, 1)?;
    let source = right.buffer(4, "memory", BYTES, 1)?;
    let before = bed.status()?.port(1).count("bytes")?;
    right.stream(&source, BYTES, &target)?;
    for _ in 0..3 {
        for (name, shell) in [("receiver", left), ("sender", right)] {
            for line in ["VmPin", "VmLck"] {
                let pinned = shell.kilobytes(line)?;
                ensure!(pinned == 0, "{line} of the {name} is {pinned} kB");
            }
        }
        right.stream_moves()?;
    }
    ensure!(left.kilobytes("VmRSS")? >= BYTES / 1024, "the target is not even there");
    ensure!(bed.status()?.port(1).count("bytes")? > before + BYTES);
    // Ends the stream, so that what comes next is not disturbed.
    right.say("qp")?;
    Ok(())
}

/// The same program with a device that does pin, or the zeros above might mean nothing.
fn another_device_does_pin(bed: &Bed) -> Result<()> {
    let devices = rxe::set_up(&bed.pair)?;
    let shell = Shell::start(bed.left(), &devices[0], "rxe")?;
    shell.buffer(0, "memory", 4 << 20, 1)?;
    let pinned = shell.kilobytes("VmPin")?;
    ensure!(pinned >= 4096, "rxe has pinned {pinned} kB of 4 MiB");
    // The device goes with its machine: to remove it takes rxe half a minute.
    shell.leave("close")
}
