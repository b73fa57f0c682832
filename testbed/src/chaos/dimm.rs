// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory modules that are plugged in, filled with the programs' pages, and taken away.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::trial::Stop;
use crate::{
    error::{Error, Result},
    guest::Guest,
    vm::Vm,
};

/// MiB of a module: one block of memory as the guest's kernel manages it.
const SIZE: u32 = 128;

/// The node that the modules are on. What is allocated there goes to movable memory first.
const NODE: u32 = 0;

/// Pages that must be in use in a module before it is taken away.
const FILLED: u64 = 1024;

/// Longest time for the guest's kernel to notice a module, for the programs to fill it, and for
/// the kernel to empty it.
const LIMIT: Duration = Duration::from_secs(60);

/// Plugs and unplugs until it is told to stop; returns how often a module in use was taken away
/// and how often the kernel refused.
pub(super) fn cycle(vm: &Vm, stop: &Stop) -> Result<(u64, u64)> {
    let guest = vm.guest();
    guest.write_file("/sys/devices/system/memory/auto_online_blocks", b"online_movable", 0o644)?;
    let (mut unplugged, mut refused) = (0, 0);
    while !stop.is_set() {
        let name = format!("module{unplugged}");
        vm.plug_dimm(&name, SIZE, NODE)?;
        if !until(stop, || Ok(in_use(guest)? >= FILLED))? {
            // Nobody filled it, which is told by the count of those that were.
            refused += unplug(vm, &name)?;
            break;
        }
        refused += unplug(vm, &name)?;
        unplugged += 1;
    }
    Ok((unplugged, refused))
}

/// Takes a module away, however often the kernel refuses at first: a page may be busy.
fn unplug(vm: &Vm, name: &str) -> Result<u64> {
    let end = Instant::now() + LIMIT;
    let mut refused = 0;
    loop {
        match vm.unplug_dimm(name, LIMIT) {
            Ok(()) => return Ok(refused),
            Err(Error::Unfit { .. }) if Instant::now() < end => refused += 1,
            Err(error) => return Err(error),
        }
    }
}

/// False when it was told to stop before, or nothing came about.
fn until(stop: &Stop, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end && !stop.is_set() {
        if done()? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

/// Pages in use of all movable memory, of which modules are the only one.
fn in_use(guest: &Guest) -> Result<u64> {
    Ok(movable_in_use(&guest.read_text("/proc/zoneinfo")?))
}

fn movable_in_use(zones: &str) -> u64 {
    let mut movable = false;
    let mut sum = 0;
    for line in zones.lines() {
        if let Some(zone) = line.strip_prefix("Node ") {
            movable = zone.contains("zone  Movable");
        }
        let mut words = line.split_whitespace();
        let in_use = [
            "nr_zone_active_anon",
            "nr_zone_inactive_anon",
            "nr_zone_active_file",
            "nr_zone_inactive_file",
        ];
        if movable && words.next().is_some_and(|name| in_use.contains(&name)) {
            sum += words.next().and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_movable_memory_counts() {
        let text = "Node 0, zone   Normal\n  pages free     5\n      nr_zone_active_anon 100\n\
                    Node 0, zone  Movable\n  pages free     5\n      nr_zone_inactive_anon 7\n\
                    \x20     nr_zone_active_anon 3\n      nr_zone_unevictable 9\n\
                    Node 1, zone   Normal\n      nr_zone_active_anon 100\n";
        assert_eq!(movable_in_use(text), 10);
    }
}
