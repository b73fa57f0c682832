// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two RDMA devices in one machine with a cable between them.
//!
//! The cable is a veth pair. Were both its ends in one network namespace, the kernel would find the address of the
//! other end to be its own and send nothing through it, so each is in a namespace of its own. The RDMA devices are rxe on
//! these ends; a device works in the namespace of its network interface, and is seen in all of them.

use std::time::Duration;

use super::{Counters, Netem};
use crate::{
    error::Result,
    guest::{Guest, Place},
    workload::{end::End, rdma::wait_until_ready},
};

/// Names of the ends, and of their network namespaces.
pub const SIDES: [&str; 2] = ["east", "west"];

const ADDRESSES: [&str; 2] = ["10.78.0.1", "10.78.0.2"];
const NETDEVS: [&str; 2] = ["veth0", "veth1"];
const DEVICES: [&str; 2] = ["rxe0", "rxe1"];
const LIMIT: Duration = Duration::from_secs(30);

/// The cable, which a machine has once at most. It is gone with the machine, or by [`remove`](Self::remove).
#[derive(Debug)]
pub struct Cable {
    guest: Guest,
    ends: [End; 2],
}

impl Cable {
    /// Lays it, and waits until both devices can be used.
    ///
    /// # Errors
    /// When the kernel lacks veth or rxe, the machine has a cable already, or a device does not become active.
    pub fn lay(guest: &Guest) -> Result<Self> {
        let [east, west] = SIDES;
        let [east_netdev, west_netdev] = NETDEVS;
        let mut script = format!(
            "set -e; modprobe -a veth rdma_rxe\n\
             ip netns add {east}; ip netns add {west}\n\
             ip link add {east_netdev} netns {east} type veth peer name {west_netdev} netns {west}\n"
        );
        for (side, address) in ADDRESSES.iter().enumerate() {
            let (name, netdev, device) = (SIDES[side], NETDEVS[side], DEVICES[side]);
            // Without duplicate detection, which would hold the link-local address back for a second.
            script.push_str(&format!(
                "ip netns exec {name} sysctl -qw net.ipv6.conf.{netdev}.accept_dad=0\n\
                 ip -n {name} addr add {address}/24 dev {netdev}\n\
                 ip -n {name} link set lo up; ip -n {name} link set {netdev} up\n\
                 ip netns exec {name} rdma link add {device} type rxe netdev {netdev}\n"
            ));
        }
        guest.shell(script).limit(LIMIT).run()?;
        let end = |side: usize| {
            let (name, address) = (DEVICES[side], ADDRESSES[side]);
            Ok(End {
                place: Place::in_namespace(guest, SIDES[side]),
                device: wait_until_ready(guest, name, address, LIMIT)?,
                address: address.into(),
            })
        };
        let ends: [End; 2] = [end(0)?, end(1)?];
        // Fills the neighbour tables before anything is timed.
        ends[0].place.run(["ping", "-c1", "-W5", ADDRESSES[1]], LIMIT)?;
        Ok(Self { guest: guest.clone(), ends })
    }

    /// Its ends, in the order of [`SIDES`].
    pub fn ends(&self) -> &[End; 2] {
        &self.ends
    }

    /// The network interface of an end, in the end's namespace.
    pub fn netdev(side: usize) -> &'static str {
        NETDEVS[side]
    }

    /// Does this to all that is sent from now on, in both directions.
    ///
    /// # Errors
    /// As [`Netem::apply`].
    pub fn spoil(&self, netem: &Netem) -> Result<()> {
        (0..2).try_for_each(|side| netem.apply(&self.ends[side].place, NETDEVS[side]))
    }

    /// Makes a spoilt cable good again.
    ///
    /// # Errors
    /// When it was good.
    pub fn mend(&self) -> Result<()> {
        (0..2).try_for_each(|side| Netem::remove(&self.ends[side].place, NETDEVS[side]))
    }

    /// What the device of each end has counted.
    ///
    /// # Errors
    /// When the machine is gone, or the device.
    pub fn counters(&self) -> Result<[Counters; 2]> {
        let read = |side: usize| Counters::read(&self.guest, DEVICES[side]);
        Ok([read(0)?, read(1)?])
    }

    /// Removes devices, interfaces and namespaces. Programs that still use them lose them.
    ///
    /// # Errors
    /// When one is gone already.
    pub fn remove(self) -> Result<()> {
        let ([east, west], [east_device, west_device]) = (SIDES, DEVICES);
        let script = format!(
            "set -e; rdma link delete {east_device}; rdma link delete {west_device}\n\
             ip -n {east} link delete {}; ip netns delete {east}; ip netns delete {west}",
            NETDEVS[0]
        );
        self.guest.shell(script).limit(LIMIT).run().map(drop)
    }
}
