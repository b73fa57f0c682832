// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One of the two ends of a workload: where its program runs, on which device, and how the other finds it.

use super::rdma::Device;
use crate::{
    guest::Place,
    topology::{ADDRESSES, Pair},
};

/// An end.
#[derive(Debug, Clone)]
pub struct End {
    /// Where its program runs.
    pub place: Place,
    /// The RDMA device that it uses.
    pub device: Device,
    /// The IPv4 address at which the other end finds it.
    pub address: String,
}

impl End {
    /// The guests of a pair, the left one first, with a device of each.
    pub fn of_pair(pair: &Pair, devices: &[Device; 2]) -> [Self; 2] {
        let [left, right] = pair.guests();
        [(left, 0), (right, 1)].map(|(guest, side)| Self {
            place: Place::of(guest),
            device: devices[side].clone(),
            address: ADDRESSES[side].into(),
        })
    }
}
