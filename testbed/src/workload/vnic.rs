// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The RDMA device of this project, as the guests of a pair see it.

use std::time::Duration;

use super::rdma::{Device, wait_until_ready};
use crate::{
    error::Result,
    guest::Guest,
    topology::{ADDRESSES, Pair},
};

/// Kernel module of the device.
pub const MODULE: &str = "vnic_rdma";

/// Name of the first device in a guest.
pub const NAME: &str = "vnic0";

const LIMIT: Duration = Duration::from_secs(30);

/// Loads the module in both guests and waits until the device can be used.
///
/// # Errors
/// When the module does not load, or the device does not become active.
pub fn set_up(pair: &Pair) -> Result<[Device; 2]> {
    let [left, right] = pair.guests();
    Ok([set_up_one(left, ADDRESSES[0])?, set_up_one(right, ADDRESSES[1])?])
}

/// As [`set_up`], in a single guest that has this IPv4 address.
///
/// # Errors
/// As [`set_up`].
pub fn set_up_one(guest: &Guest, address: &str) -> Result<Device> {
    guest.run(["modprobe", MODULE], LIMIT)?;
    wait_until_ready(guest, NAME, address, LIMIT)
}

/// Unloads the module of both guests.
///
/// # Errors
/// When it is in use, or a guest refuses.
pub fn tear_down(pair: &Pair) -> Result<()> {
    for guest in pair.guests() {
        guest.run(["modprobe", "-r", MODULE], LIMIT)?;
    }
    Ok(())
}
