// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The module is loaded and unloaded again and again.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use vnic_testbed::{
    guest::Guest,
    provision::kernel::Series,
    topology::ADDRESSES,
    workload::{rdma::wait_until_ready, vnic},
};

use crate::{
    bed::{Bed, LIMIT, kernel_is_content, until, with_pair},
    counters::{held_by_module, nothing_is_held},
    shell::Shell,
};

const LOADS: u64 = 50;

/// Loads before the first look at the memory, since caches fill up at first.
const WARM_UP: u64 = 10;

/// Loads of which one runs a program.
const PROGRAM_EVERY: u64 = 5;

/// Every object has a cache of its own kind, is counted exactly, and is checked when it is freed.
const MEMORY_DEBUGGING: &str = "slab_nomerge slub_debug=FZP";

pub fn fifty_times(series: Series) -> Result<()> {
    with_pair(series, MEMORY_DEBUGGING, |bed| {
        for load in 0..WARM_UP {
            load_and_unload(bed, load)?;
        }
        let (daemon, memory) = (Daemon::now(bed)?, Memory::now(bed.left())?);
        for load in WARM_UP..LOADS {
            load_and_unload(bed, load)?;
        }
        nothing_is_lost(bed.left(), &memory)?;
        until("the daemon's descriptors and threads gone", || {
            let now = Daemon::now(bed)?;
            let well = now.descriptors <= daemon.descriptors && now.threads <= daemon.threads;
            Ok(if well { Ok(()) } else { Err(format!("{daemon:?} before, {now:?} now")) })
        })?;
        ensure!(bed.status()?.port(0).connections == 1, "the machine had to connect again");
        let devices = bed.load()?;
        bed.ping_pong(&devices)
    })
}

/// One time; every few times with a program that leaves its objects behind.
fn load_and_unload(bed: &Bed, number: u64) -> Result<()> {
    let guest = bed.left();
    guest.run(["modprobe", vnic::MODULE], LIMIT)?;
    ensure!(bed.status()?.port(0).driver, "the daemon knows no driver");
    if number.is_multiple_of(PROGRAM_EVERY) {
        run_a_program(bed)?;
    }
    guest.run(["modprobe", "-r", vnic::MODULE], LIMIT)?;
    let status = bed.status()?;
    let (driver, held) = (status.port(0).driver, status.port(0).holds()?);
    ensure!(!driver && held.is_empty(), "the daemon: driver {driver}, holds {held:?}");
    if number.is_multiple_of(PROGRAM_EVERY) {
        guest.shell(format!("test ! -e /sys/module/{}", vnic::MODULE)).limit(LIMIT).run()?;
        kernel_is_content(guest)?;
    }
    Ok(())
}

fn run_a_program(bed: &Bed) -> Result<()> {
    let guest = bed.left();
    let device = wait_until_ready(guest, vnic::NAME, ADDRESSES[0], LIMIT)?;
    let shell = Shell::start(guest, &device, "load")?;
    shell.say("hold 2")?;
    let held = held_by_module(guest)?;
    ensure!(held.contains(&("mr", 2)) && held.contains(&("qp", 2)), "the module holds {held:?}");
    let held = bed.status()?.port(0).holds()?;
    ensure!(held.contains(&("mrs", 2)) && held.contains(&("qps", 2)), "the daemon holds {held:?}");
    shell.leave("exit")?;
    nothing_is_held(bed, 0)
}

/// Fails if memory has gone that comes to one object for each program that has run, or to one page
/// for each load.
fn nothing_is_lost(guest: &Guest, before: &Memory) -> Result<()> {
    let loads = LOADS - WARM_UP;
    let (objects, pages) = ((loads / PROGRAM_EVERY) as i64, (loads / 2) as i64);
    let mut least = before.objects.keys().map(|name| (name, i64::MAX)).collect::<BTreeMap<_, _>>();
    let mut looks = Vec::new();
    // What is freed after a grace period may still be there, and other parts of the kernel take and
    // give back all the time: the least of each cache counts, and the mean of the pages.
    until("all memory given back", || {
        let now = Memory::now(guest)?;
        for (name, least) in &mut least {
            let count = now.objects.get(*name).copied().unwrap_or(0);
            *least = (*least).min(count - before.objects[*name]);
        }
        looks.push(now.pages - before.pages);
        let grown = least.iter().filter(|(_, by)| **by >= objects).collect::<Vec<_>>();
        let more = looks.iter().sum::<i64>() / looks.len() as i64;
        Ok(if grown.is_empty() && more < pages {
            Ok(())
        } else {
            Err(format!("{more} pages more, and objects: {grown:?}"))
        })
    })
}

/// What the kernel of a guest has given out.
struct Memory {
    /// Objects by slab cache.
    objects: BTreeMap<String, i64>,
    /// Pages that belong to nothing that the kernel counts, as pages of a driver do.
    pages: i64,
}

impl Memory {
    fn now(guest: &Guest) -> Result<Self> {
        let drop = "echo 3 >/proc/sys/vm/drop_caches; echo 1 >/proc/sys/vm/compact_memory";
        guest.shell(drop).limit(LIMIT).run()?;
        let slabs = guest.read_text("/proc/slabinfo")?;
        let lines = slabs.lines().filter(|line| !line.starts_with('#')).skip(1);
        let objects = lines.filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_string(), words.next()?.parse().ok()?))
        });
        let mut objects = objects.collect::<BTreeMap<_, _>>();
        // The kernel's own: areas that wait until a purge is worth it, and what DAMON watches.
        for busy in ["vmap_area", "damon_region"] {
            objects.remove(busy);
        }
        Ok(Self { objects, pages: uncounted_pages(guest)? })
    }
}

/// The median of several looks, since no look is at one moment only.
fn uncounted_pages(guest: &Guest) -> Result<i64> {
    const LOOK: &str = "for look in 1 2 3 4 5 6 7 8 9; do echo 1 >/proc/sys/vm/stat_refresh; \
                        cat /proc/zoneinfo /proc/meminfo; echo next; done";
    let text = guest.shell(LOOK).limit(LIMIT).run()?.stdout_text();
    let looks = text.split("\nnext\n").filter(|look| !look.is_empty());
    let mut pages = looks.map(uncounted_in).collect::<Result<Vec<_>>>()?;
    pages.sort_unstable();
    pages.get(pages.len() / 2).copied().context("nothing to see")
}

fn uncounted_in(look: &str) -> Result<i64> {
    // Not VmallocUsed, in which a module's own memory may be, and the stacks are once more.
    const COUNTED: [&str; 9] = [
        "Buffers",
        "Cached",
        "SwapCached",
        "AnonPages",
        "Slab",
        "KernelStack",
        "PageTables",
        "SecPageTables",
        "Percpu",
    ];
    let value = |name: &str| {
        let line = look.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<i64>().ok());
        value.with_context(|| format!("no {name} in\n{look}"))
    };
    let counted = COUNTED.into_iter().map(value).sum::<Result<i64>>()?;
    // Of the zones: free pages, and those that a processor keeps for itself.
    let free = look.lines().map(str::trim_start).filter_map(|line| {
        line.strip_prefix("nr_free_pages ").or_else(|| line.strip_prefix("count:"))
    });
    let free = free.map(|count| Ok(count.trim().parse::<i64>()?)).sum::<Result<i64>>()?;
    Ok((value("MemTotal")? - counted) / 4 - free)
}

/// What the daemon has of the host.
#[derive(Debug)]
struct Daemon {
    descriptors: usize,
    threads: usize,
}

impl Daemon {
    fn now(bed: &Bed) -> Result<Self> {
        let pid = bed.pair.daemon.as_ref().context("no daemon")?.pid();
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map(Iterator::count);
        Ok(Self { descriptors: count("fd")?, threads: count("task")? })
    }
}
