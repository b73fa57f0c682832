// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Peers that go, that never came, and that break the rules.

use crate::ends::{Bed, SMALL, say, until};
use anyhow::{Result, bail, ensure};
use std::time::{Duration, Instant};
use vnic::wire::lane::{Lane, LaneError};
use vnic::wire::verbs::device::DeviceError;
use vnic::wire::verbs::endpoint::{Endpoint, Settings};
use vnic::wire::verbs::lane::VerbsLane;

/// How long a lane may take to notice that nobody answers.
const NOTICED: Duration = Duration::from_secs(5);

/// Waits for a lane to break, and demands that it stays so.
fn breaks(lane: &mut VerbsLane) -> Result<(LaneError, Duration)> {
    let since = Instant::now();
    let why = until(lane, "the end of a lane", |lane| match lane.receive() {
        Ok(Some(_)) => bail!("a message that nobody sent"),
        Ok(None) => Ok(None),
        Err(why) => Ok(Some(why)),
    })?;
    let took = since.elapsed();
    ensure!(took < NOTICED, "it took {took:?}");
    for _ in 0..3 {
        ensure!(lane.buffer().is_none(), "room in a lane that broke");
        ensure!(lane.receive() == Err(why.clone()), "a lane that broke has changed its mind");
        // None of these does harm.
        lane.send(8);
        lane.flush();
        lane.release();
        lane.arm();
        lane.acknowledge();
    }
    Ok((why, took))
}

/// The other end is dropped.
pub fn peer_is_gone(bed: &Bed) -> Result<()> {
    let [mut one, other] = bed.pair(SMALL)?;
    drop(other);
    ensure!(say(&mut one, 1, 16), "no room");
    one.flush();
    let (why, took) = breaks(&mut one)?;
    ensure!(matches!(why, LaneError::Gone(_)), "{why}");
    println!("    after {took:.2?}: {why}");
    Ok(())
}

/// There is no queue pair with the number that the peer told.
pub fn peer_was_never_there(bed: &Bed) -> Result<()> {
    let (pending, own) = bed.end(SMALL)?;
    let mut lane = pending.connect(&Endpoint { qpn: 0xff_fffe, ..own })?;
    ensure!(say(&mut lane, 1, 16), "no room");
    lane.flush();
    let (why, _) = breaks(&mut lane)?;
    ensure!(matches!(why, LaneError::Gone(_)), "{why}");
    Ok(())
}

/// The sender was told of more room than there is.
pub fn message_is_too_long(bed: &Bed) -> Result<()> {
    let large = Settings { slot_bytes: 8192, ..SMALL };
    let (one, one_is) = bed.end(large)?;
    let (other, other_is) = bed.end(SMALL)?;
    let mut one = one.connect(&Endpoint { slot_bytes: large.slot_bytes, ..other_is })?;
    let mut other = other.connect(&one_is)?;
    ensure!(say(&mut one, 1, 4096), "no room");
    one.flush();
    let (why, _) = breaks(&mut other)?;
    println!("    receiver: {why}");
    let (why, _) = breaks(&mut one)?;
    println!("    sender: {why}");
    Ok(())
}

/// Numbers are checked where they are used too, whoever has made them up.
pub fn numbers_make_no_sense(bed: &Bed) -> Result<()> {
    let (_, good) = bed.end(SMALL)?;
    for bad in [
        Endpoint { slots: 0, ..good },
        Endpoint { slot_bytes: 4, ..good },
        Endpoint { qpn: 0, ..good },
        Endpoint { mtu: 9, ..good },
    ] {
        let (pending, _) = bed.end(SMALL)?;
        match pending.connect(&bad) {
            Err(DeviceError::Peer(_)) => {}
            Err(other) => bail!("{bad:?}: {other}"),
            Ok(_) => bail!("{bad:?} was taken"),
        }
    }
    for bad in [Settings { slots: u32::MAX, ..SMALL }, Settings { slot_bytes: 0, ..SMALL }] {
        ensure!(matches!(bed.open()?.lane(bad), Err(DeviceError::Settings(_))), "{bad:?}");
    }
    Ok(())
}
