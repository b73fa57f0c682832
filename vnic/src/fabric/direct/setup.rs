// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device of the host that ports go direct by, as it is asked for.

use super::Mapped;
use super::seat::Seat;
use crate::device::Device;
use ipnet::IpNet;
use serde::Deserialize;
use std::sync::Arc;
use thiserror::Error;

/// Which addresses of the host guests send by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addresses {
    /// Their own, which the host's network interface gets: a peer sees the guest's address.
    #[default]
    Own,
    /// The host's one, whatever theirs are: guests of several tenants may have the same.
    Mapped,
}

/// Whether guests keep their pages where they are for the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Odp {
    /// Not if the device pages on demand and passes a trial.
    #[default]
    Auto,
    /// Always.
    Never,
    /// As `Auto`; and try what some versions of rxe, in the kernel, do not survive.
    Trust,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectSettings {
    /// The device, by name.
    pub device: String,
    /// Entry of its GID table; `None` to find one.
    pub gid_index: Option<u8>,
    /// Whose addresses.
    pub addresses: Addresses,
    /// Addresses that guests may have on the host's network interface, if they have their own.
    pub allow: Vec<IpNet>,
    /// Whether pages stay.
    pub odp: Odp,
    /// Addresses of peers that guests know by others, each for the guests of a network.
    pub map: Vec<(String, Mapped)>,
}

/// Why it cannot be had.
#[derive(Debug, Error)]
pub enum DirectError {
    /// Not in this program.
    #[error(
        "a port goes direct by {0:?}, an RDMA device, which this vnic cannot use: build it with --features verbs, or leave out direct = true"
    )]
    NotBuilt(String),
    /// The worker that this would be one too many for.
    #[error("a port that goes direct leaves room for 63 workers: choose fewer")]
    Workers,
    /// Nobody to look after it.
    #[error("cannot look after the device of [direct]: {0}")]
    Thread(#[source] std::io::Error),
    /// The device.
    #[cfg(feature = "verbs")]
    #[error(transparent)]
    Device(#[from] crate::wire::verbs::device::DeviceError),
}

impl DirectSettings {
    /// Opens the device for the queue pairs of `device`, and looks after it from then on.
    ///
    /// # Errors
    ///
    /// [`DirectError`].
    pub fn open(&self, device: &Arc<Device>) -> Result<Arc<Seat>, DirectError> {
        if device.config().workers >= vnic_abi::epoch::EPOCH_SLOTS as usize {
            return Err(DirectError::Workers);
        }
        self.open_device(device)
    }

    #[cfg(not(feature = "verbs"))]
    fn open_device(&self, _: &Arc<Device>) -> Result<Arc<Seat>, DirectError> {
        Err(DirectError::NotBuilt(self.device.clone()))
    }

    #[cfg(feature = "verbs")]
    fn open_device(&self, device: &Arc<Device>) -> Result<Arc<Seat>, DirectError> {
        use super::attend::Attendant;
        use super::verbs::{Judge, VerbsNic};
        use crate::fabric::direct::nic::Nic;
        use crate::wire::verbs::watch::Watch;
        let Self { device: name, gid_index, addresses, odp, .. } = self.clone();
        let nic = VerbsNic::open(&name, gid_index, addresses, Judge::Try(odp), device)?;
        let seat = Arc::new(Seat::new(Arc::new(nic)));
        let mut watch = Watch::new(&name, gid_index);
        let pins = seat.pins().map(str::to_owned);
        let again = move |device: &Arc<Device>| {
            // Pages that stay suit any device: there is nothing to be tried.
            let judge = pins.clone().map_or(Judge::Try(odp), Judge::Known);
            let nic = VerbsNic::open(&name, gid_index, addresses, judge, device);
            nic.map(|nic| Arc::new(nic) as Arc<dyn Nic>).map_err(|error| error.to_string())
        };
        let attendant = Attendant::new(move || watch.look(), again);
        attendant.start(&seat, device).map_err(DirectError::Thread)?;
        Ok(seat)
    }

    /// The addresses that guests may have on the host; `None` if they have none there.
    pub fn allowed(&self) -> Option<Arc<[IpNet]>> {
        (self.addresses == Addresses::Own).then(|| self.allow.as_slice().into())
    }

    /// The addresses of peers for guests of `network`.
    pub fn map_of(&self, network: &str) -> Arc<[Mapped]> {
        let of = self.map.iter().filter(|(name, _)| name == network);
        of.map(|(_, mapped)| *mapped).collect()
    }
}
