// SPDX-License-Identifier: Apache-2.0 OR MIT
//! RDMA in software by the kernel's rxe, over the guests' virtio network card.

use std::time::Duration;

use super::rdma::{Device, wait_until_ready};
use crate::{
    error::Result,
    guest::Guest,
    topology::{ADDRESSES, NETDEV, Pair},
};

const NAME: &str = "rxe0";
const LIMIT: Duration = Duration::from_secs(30);

/// Makes an rxe device in both guests, if they have none yet, and waits until it can be used.
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
    guest
        .shell(format!(
            "set -e; modprobe rdma_rxe; test -e /sys/class/infiniband/{NAME} || \
             rdma link add {NAME} type rxe netdev {NETDEV}"
        ))
        .limit(LIMIT)
        .run()?;
    wait_until_ready(guest, NAME, address, LIMIT)
}

/// Removes the device of both guests.
///
/// # Errors
/// When a guest refuses.
pub fn tear_down(pair: &Pair) -> Result<()> {
    for guest in pair.guests() {
        guest.run(["rdma", "link", "delete", NAME], LIMIT)?;
    }
    Ok(())
}
