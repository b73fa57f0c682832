// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What lanes take of the host, and that they give it back.

use crate::ends::{Bed, SMALL, next, say};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::fs;
use vnic::wire::lane::Lane;
use vnic::wire::verbs::device::DeviceError;
use vnic::wire::verbs::endpoint::Settings;

/// What a device may pin for its own queues, in KiB of a lane.
const QUEUES: u64 = 1024;

fn pinned_kib() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:")).context("VmPin")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn files() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Staging rings and nothing else is pinned, and no file or memory stays when a lane goes.
pub fn are_given_back(bed: &Bed) -> Result<()> {
    let before = (pinned_kib()?, files()?);
    let settings = Settings::default();
    let lanes = bed.pair(settings)?;
    // Two ends, each with as many slots for SENDs as for receives, four of which are spare.
    let rings = 4 * u64::from(settings.slots + 4) * u64::from(settings.slot_bytes) / 1024;
    let pinned = pinned_kib()? - before.0;
    ensure!((rings..=rings + 2 * QUEUES).contains(&pinned), "{pinned} KiB are pinned for {rings}");
    println!("    {pinned} KiB pinned by two ends");
    drop(lanes);
    for seed in 0..100 {
        let [mut one, mut other] = bed.pair(SMALL)?;
        ensure!(say(&mut one, seed, 16), "no room");
        one.flush();
        next(&mut other, seed, 16)?;
        // Now and then in the middle of something.
        for _ in 0..seed % 8 {
            say(&mut one, seed, 16);
        }
        one.flush();
    }
    let after = (pinned_kib()?, files()?);
    ensure!(before == after, "KiB pinned and files were {before:?}, and are {after:?}");
    Ok(())
}

/// A user who may lock too little memory is told so. In a thread that may do no more than one, as capabilities are
/// each thread's own.
pub fn limit_is_told(bed: &Bed) -> Result<()> {
    let limit = getrlimit(Resource::Memlock);
    let told = std::thread::scope(|scope| {
        let poor = scope.spawn(|| -> Result<String> {
            let mut sets = capabilities(None)?;
            sets.effective.remove(CapabilitySet::IPC_LOCK);
            set_capabilities(None, sets)?;
            let small = rustix::process::Rlimit { current: Some(64 << 10), ..limit };
            setrlimit(Resource::Memlock, small)?;
            match bed.open()?.lane(Settings::default()) {
                Err(error @ DeviceError::Register { .. }) => Ok(error.to_string()),
                Err(other) => bail!("{other}"),
                Ok(_) => bail!("it may lock 64 KiB, and has locked more"),
            }
        });
        poor.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    });
    setrlimit(Resource::Memlock, limit)?;
    let told = told?;
    ensure!(told.contains("ulimit -l") && told.contains("64 KiB"), "{told}");
    println!("    {told}");
    Ok(())
}
