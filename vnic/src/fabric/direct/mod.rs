// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Direct: the peer is any RDMA endpoint, which knows nothing of this daemon. A guest's queue pair is a queue pair of a
//! device of the host, and its region one of the host, in the standard protocol.
//!
//! | module | is |
//! |---|---|
//! | [`nic`] | what a device of the host has to be able to do |
//! | [`verbs`] | such a device by libibverbs |
//! | [`window`] | the pages of a region as the device wants them, if they stay |
//! | [`shadow`] | the same if they come and go |
//! | [`region`] | a guest's region as one of the host |
//! | [`queue`] | a guest's queue pair as one of the host, and what is under way in it |
//! | [`seat`] | the device that is there now |
//! | [`attend`] | what looks after it, and brings it back |
//! | [`setup`] | the device that is asked for |
//! | [`path`] | which queue pairs go this way |
//! | [`send`] | send requests are posted |
//! | [`receive`] | receives are posted |
//! | [`watched`] | for whose completions a worker looks |
//! | [`done`] | completions of the host become those of the guest |
//!
//! The numbers of a queue pair and the key of a region are the host's, since a peer names both; so a port either has
//! this way for all of its queue pairs, or for none.

pub mod attend;
pub mod done;
pub mod nic;
pub mod path;
pub mod queue;
pub mod receive;
pub mod region;
pub mod seat;
mod send;
pub mod setup;
#[cfg_attr(not(feature = "verbs"), path = "shadow_none.rs")]
pub mod shadow;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
#[cfg(feature = "verbs")]
pub mod verbs;
pub mod watched;
pub mod window;

use crate::object::gid::Gid;
use crate::session::Session;
use ipnet::IpNet;
use nic::Nic;
use parking_lot::Mutex;
use seat::Seat;
use shadow::{Keeper, Shadows};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Weak};
use vnic_iommu::quiesce::{GuestPage, WorkerSlot};
use window::WindowBudget;

/// Pages that the windows of one port may have: 64 GiB.
const MAX_PAGES: u64 = 1 << 24;
/// Ranges of guest memory that the windows of one port may have. Each is a mapping of the daemon, of which Linux gives a
/// process 65530 (`vm.max_map_count`) unless told otherwise.
const MAX_RANGES: u64 = 1 << 15;

/// The device of the host that a port goes direct by, and who it is there.
#[derive(Debug, Clone)]
pub struct DirectConfig {
    /// The device.
    pub seat: Arc<Seat>,
    /// Addresses that peers have for the guest, and for the host's network. What is not among them is the same for both.
    pub map: Arc<[Mapped]>,
    /// Addresses that the guest may have on the host: a network has others than its guests, whose addresses nobody may
    /// take. `None` if it has none there.
    pub allowed: Option<Arc<[IpNet]>>,
}

/// An address of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// As the guest says it.
    pub guest: Gid,
    /// As the network of the host knows it.
    pub host: Gid,
}

impl PartialEq for DirectConfig {
    fn eq(&self, other: &Self) -> bool {
        let (seat, other_seat) = (&self.seat, &other.seat);
        Arc::ptr_eq(seat, other_seat) && self.map == other.map && self.allowed == other.allowed
    }
}
impl Eq for DirectConfig {}

/// What a session has of it.
#[derive(Debug)]
pub struct Direct {
    seat: Arc<Seat>,
    map: Arc<[Mapped]>,
    allowed: Option<Arc<[IpNet]>>,
    /// What windows may still have.
    budget: Arc<WindowBudget>,
    /// Addresses of the guest that the device sends by.
    addresses: Mutex<HashSet<Gid>>,
    /// By which a thread that is no worker walks the guest's tables.
    slot: Mutex<WorkerSlot>,
    /// Windows whose pages come and go; `None` if pages stay.
    shadows: Option<Arc<Shadows>>,
    /// Who keeps those, until the session ends.
    keeper: Mutex<Option<Keeper>>,
}

impl Direct {
    /// For `session` with this epoch page, in which `slot` is nobody else's. `pins` tells whether its driver keeps the
    /// pages of regions where they are.
    pub fn new(
        config: &DirectConfig,
        session: Weak<Session>,
        epoch_page: GuestPage,
        slot: usize,
        pins: bool,
    ) -> Option<Self> {
        let keeper = if pins { None } else { Some(Keeper::start(session)) };
        let keeper = keeper.transpose().map_err(|error| {
            tracing::error!(%error, "a port that goes direct cannot start");
        });
        let keeper = keeper.ok()?;
        Some(Self {
            shadows: keeper.as_ref().map(|keeper| keeper.shadows().clone()),
            keeper: Mutex::new(keeper),
            seat: config.seat.clone(),
            map: config.map.clone(),
            allowed: config.allowed.clone(),
            budget: WindowBudget::new(MAX_PAGES, MAX_RANGES),
            addresses: Mutex::default(),
            slot: Mutex::new(WorkerSlot::new(epoch_page, slot)?),
        })
    }

    /// The device as it is now, which may be lost.
    pub fn nic(&self) -> Arc<dyn Nic> {
        self.seat.nic()
    }

    /// Its name.
    pub fn device(&self) -> &str {
        self.seat.name()
    }

    /// Windows whose pages come and go; `None` if pages stay.
    pub fn shadows(&self) -> Option<&Arc<Shadows>> {
        self.shadows.as_ref()
    }

    /// The session has ended: nobody has a window any more. Not left to whoever lets go of it last, which may be a worker.
    pub fn end(&self) {
        *self.keeper.lock() = None;
    }

    /// The guest has got the address `gid`. Without it on the host, nothing of it goes this way.
    pub fn add_address(&self, gid: &Gid) {
        if !self.allows(gid) {
            return;
        }
        match self.nic().add_address(gid) {
            Ok(()) => drop(self.addresses.lock().insert(*gid)),
            Err(error) => self.has_not_got(gid, &error),
        }
    }

    fn has_not_got(&self, gid: &Gid, error: &io::Error) {
        let (device, gid) = (self.seat.name(), Ipv6Addr::from(*gid));
        tracing::warn!(%error, device, %gid, "the host's device does not get an address of a guest, which only reaches guests by it; may this process change addresses (CAP_NET_ADMIN), and is the address free? [direct] addresses = \"mapped\" does without");
    }

    /// The device is another one: its network interface may be, too, and not have this address of the guest.
    pub fn renew_address(&self, gid: &Gid) {
        if !self.addresses.lock().contains(gid) {
            // Given to the guest when there was no device.
            return self.add_address(gid);
        }
        match self.nic().add_address(gid) {
            Ok(()) => {}
            // It was the guest's before, so that nobody else has it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                self.addresses.lock().remove(gid);
                self.has_not_got(gid, &error);
            }
        }
    }

    /// Whether the guest may have this address on the host.
    fn allows(&self, gid: &Gid) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        let six = Ipv6Addr::from(*gid);
        let address = six.to_ipv4_mapped().map_or(IpAddr::V6(six), IpAddr::V4);
        let allows = allowed.iter().any(|net| net.contains(&address));
        // Every network device has one that only means something on its own cable.
        if !allows && !six.is_unicast_link_local() {
            tracing::warn!(%address, "an address of a guest is not among those that guests may have on the host, and only reaches guests (direct.allow)");
        }
        allows
    }

    /// The guest does not have it any more.
    pub fn remove_address(&self, gid: &Gid) {
        if self.addresses.lock().remove(gid) {
            self.nic().remove_address(gid);
        }
    }

    /// Index of the host's address by which the guest's `gid` sends.
    pub fn source(&self, gid: &Gid) -> Option<u8> {
        // Another guest, or the host itself, may have the same.
        let own = self.addresses.lock().contains(gid);
        own.then(|| self.nic().source(gid)).flatten()
    }

    /// What the host's network calls the peer that a guest calls `gid`.
    pub fn peer(&self, gid: &Gid) -> Gid {
        self.map.iter().find(|mapped| mapped.guest == *gid).map_or(*gid, |mapped| mapped.host)
    }
}
