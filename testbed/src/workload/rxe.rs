// SPDX-License-Identifier: Apache-2.0 OR MIT
//! RDMA in software by the kernel's rxe, over the guests' virtio network card.

use std::time::Duration;

use super::rdma::{Device, wait_until_ready};
use crate::{
    error::Result,
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
    let devices = [(left, ADDRESSES[0]), (right, ADDRESSES[1])].map(|(guest, address)| {
        guest
            .shell(format!(
                "set -e; modprobe rdma_rxe; test -e /sys/class/infiniband/{NAME} || \
                 rdma link add {NAME} type rxe netdev {NETDEV}"
            ))
            .limit(LIMIT)
            .run()?;
        wait_until_ready(guest, NAME, address, LIMIT)
    });
    let [left, right] = devices;
    Ok([left?, right?])
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
