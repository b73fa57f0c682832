// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the host gives to guests and daemon: processors of their own, and memory of huge pages.

use std::fs;

use anyhow::{Context, Result, ensure};
use vnic_testbed::{
    host::{Processors, pages::Pages, time::threads},
    provision::kernel::Series,
    topology::Pin,
};

use crate::bed::{Bed, with_pair_of};

/// MiB of each guest, as few as it does well with.
const MEMORY: u32 = 512;

#[test]
fn busy_threads_stay_where_they_are_put() -> Result<()> {
    with_pair_of(
        Series::Stable,
        |config| config.memory = MEMORY,
        |bed| {
            let devices = bed.load()?;
            let busy = busy_threads(bed)?;
            let auto = bed.pair.pin(Pin::Auto)?;
            ensure!(auto.done == (Processors::look().cores() > busy.len()), "{auto:?}");
            ensure!(!bed.pair.pin(Pin::Never)?.done);

            let pinning = bed.pair.pin(Pin::Always)?;
            ensure!(pinning.done, "{pinning:?}");
            // Asked of the kernel in another way than by the pinning itself.
            for (name, process, thread) in &busy {
                let status = format!("/proc/{process}/task/{thread}/status");
                let status = fs::read_to_string(&status).with_context(|| status.clone())?;
                let allowed =
                    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
                let allowed = allowed.context("no list of processors")?.trim();
                ensure!(allowed.parse::<usize>().is_ok(), "{name} may run on {allowed}");
                let planned = format!("{name}: {allowed}");
                let mut parts = pinning.text.split([',', ';']).map(str::trim);
                ensure!(
                    parts.any(|part| part == planned),
                    "{planned} is not in the plan: {pinning}"
                );
            }
            bed.ping_pong(&devices)
        },
    )
}

/// Names, processes and numbers of the threads that are to be pinned.
fn busy_threads(bed: &Bed) -> Result<Vec<(String, u32, u32)>> {
    let mut busy = Vec::new();
    for vm in [&bed.pair.left, &bed.pair.right] {
        let processors = vm.processor_threads()?.into_iter().enumerate();
        let named = |(number, id)| (format!("{} CPU {number}", vm.name()), vm.pid(), id);
        busy.extend(processors.map(named));
    }
    let daemon = bed.pair.daemon.as_ref().context("there is no daemon")?.pid();
    let workers = threads(daemon)?.into_iter().filter(|thread| thread.name.starts_with("worker-"));
    let before = busy.len();
    busy.extend(workers.map(|thread| (thread.name, daemon, thread.id)));
    ensure!(before >= 4 && busy.len() > before, "{busy:?}");
    Ok(busy)
}

#[test]
fn guests_and_daemon_share_huge_pages() -> Result<()> {
    let wanted = 2 * u64::from(MEMORY) / 2 + 8;
    let _reserved = match Reserved::new(wanted) {
        Ok(reserved) => reserved,
        Err(error) => {
            eprintln!("left out: {wanted} huge pages cannot be set aside here: {error:#}");
            return Ok(());
        }
    };
    let choose = |config: &mut vnic_testbed::topology::PairConfig| {
        config.memory = MEMORY;
        config.huge_pages = true;
    };
    with_pair_of(Series::Stable, choose, |bed| {
        let devices = bed.load()?;
        bed.ping_pong(&devices)?;
        // The guests' memory is of them, and the daemon has mapped the same.
        let daemon = bed.pair.daemon.as_ref().context("there is no daemon")?.pid();
        for process in [bed.pair.left.pid(), bed.pair.right.pid(), daemon] {
            let maps = fs::read_to_string(format!("/proc/{process}/smaps"))?;
            ensure!(
                maps.lines().any(|line| {
                    let size = line.strip_prefix("KernelPageSize:");
                    size.is_some_and(|size| size.trim() == "2048 kB")
                }),
                "process {process} has mapped no huge pages"
            );
        }
        let free = Pages::look()?.free;
        ensure!(free < u64::from(MEMORY) / 2, "{free} pages are still free");
        Ok(())
    })
}

/// Huge pages that are set aside while this lives.
struct Reserved {
    before: u64,
}

const COUNT: &str = "/proc/sys/vm/nr_hugepages";

impl Reserved {
    fn new(more: u64) -> Result<Self> {
        let before = Pages::look()?;
        let reserved = Self { before: before.all };
        fs::write(COUNT, (before.all + more).to_string()).context(COUNT)?;
        // The kernel takes what it finds, which may be fewer; then they go back at once.
        let found = Pages::look()?;
        ensure!(
            found.free >= more,
            "only {} are free after {more} more were asked for",
            found.free
        );
        Ok(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Err(error) = fs::write(COUNT, self.before.to_string()) {
            eprintln!("cannot set {COUNT} back to {}: {error}", self.before);
        }
    }
}
