// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two ends of a lane in one process, and what passes between them.

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vnic::wire::lane::Lane;
use vnic::wire::verbs::device::{Device, DeviceError};
use vnic::wire::verbs::endpoint::{Endpoint, Settings};
use vnic::wire::verbs::lane::{Pending, VerbsLane};

/// Longest time for anything that takes a moment.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The smallest lane.
pub const SMALL: Settings = Settings { slots: 8, slot_bytes: 1024 };

/// A device.
pub struct Bed {
    name: String,
    gid_index: Option<u8>,
}

impl Bed {
    /// The device with this name.
    pub fn new(name: &str, gid_index: Option<u8>) -> Self {
        Self { name: name.to_owned(), gid_index }
    }

    /// Opens it.
    pub fn open(&self) -> Result<Arc<Device>, DeviceError> {
        Device::open(&self.name, self.gid_index)
    }

    /// An end, and what the other one has to know.
    pub fn end(&self, settings: Settings) -> Result<(Pending, Endpoint)> {
        let device = self.open()?;
        let pending = device.lane(settings)?;
        let endpoint = Endpoint::read(&pending.endpoint(&device).bytes())?;
        Ok((pending, endpoint))
    }

    /// Two ends that are connected.
    pub fn pair(&self, settings: Settings) -> Result<[VerbsLane; 2]> {
        let (one, one_is) = self.end(settings)?;
        let (other, other_is) = self.end(settings)?;
        Ok([one.connect(&other_is)?, other.connect(&one_is)?])
    }

    /// How often the device, or its peer, had a message and no receive for it; `None` if it does not count.
    pub fn times_not_ready(&self) -> Option<u64> {
        let folder = format!("/sys/class/infiniband/{}/ports/1/hw_counters", self.name);
        let count = |name| fs::read_to_string(format!("{folder}/{name}")).ok()?.trim().parse().ok();
        let counts: [u64; 2] = [count("rcvd_rnr_err")?, count("send_rnr_err")?];
        Some(counts.iter().sum())
    }
}

fn byte(seed: u64, at: usize) -> u8 {
    let mixed = (seed << 32 ^ at as u64).wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// Sends `len` bytes that follow from `seed`, if there is room. It may not leave before a flush.
pub fn say(lane: &mut VerbsLane, seed: u64, len: usize) -> bool {
    let Some(room) = lane.buffer() else { return false };
    room[..len].iter_mut().enumerate().for_each(|(at, to)| *to = byte(seed, at));
    lane.send(len);
    true
}

/// Takes a message that was [said](say) like this, if one has come, and keeps its room.
pub fn hear(lane: &mut VerbsLane, seed: u64, len: usize) -> Result<bool> {
    let Some(message) = lane.receive()? else { return Ok(false) };
    ensure!(message.len() == len, "{} bytes came, and {len} were sent", message.len());
    let wrong = message.iter().enumerate().position(|(at, &found)| found != byte(seed, at));
    ensure!(wrong.is_none(), "byte {wrong:?} of {len} of message {seed} is wrong");
    Ok(true)
}

/// Waits until `ready` says so. It is asked after each sleep, which events of the lane end.
pub fn until<T>(
    lane: &mut VerbsLane,
    what: &str,
    mut ready: impl FnMut(&mut VerbsLane) -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + LIMIT;
    loop {
        lane.arm();
        // What happened before does not count: look once more.
        if let Some(found) = ready(lane)? {
            return Ok(found);
        }
        let left = end.saturating_duration_since(Instant::now());
        let time = Timespec {
            tv_sec: left.as_secs().try_into().context("a limit")?,
            tv_nsec: left.subsec_nanos().into(),
        };
        if poll(&mut [PollFd::from_borrowed_fd(lane.event(), PollFlags::IN)], Some(&time))? == 0 {
            bail!("{what}: nothing in {LIMIT:?}");
        }
        lane.acknowledge();
    }
}

/// Waits for a message, and gives its room back.
pub fn next(lane: &mut VerbsLane, seed: u64, len: usize) -> Result<()> {
    until(lane, "a message", |lane| Ok(hear(lane, seed, len)?.then_some(())))?;
    lane.release();
    lane.flush();
    Ok(())
}
