// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What carries the lanes of a daemon.

#[cfg(feature = "verbs")]
use crate::wire::verbs::{device::Device, endpoint::Settings, watch::Watch};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierConfig {
    /// An RDMA device of the host, by name; `None` for TCP.
    pub device: Option<String>,
    /// Entry of its GID table; `None` to find one.
    pub gid_index: Option<u8>,
    /// Messages that each lane has room for in each direction; `None` for the default.
    pub slots: Option<u32>,
    /// KiB of each; `None` for the default.
    pub slot_kib: Option<u32>,
}

/// Why it cannot be had.
#[derive(Debug, Error)]
pub enum CarrierError {
    /// Not in this program.
    #[error(
        "the wire {0:?} is an RDMA device, which this vnic cannot use: build it with --features verbs, or choose the wire tcp"
    )]
    NotBuilt(String),
    /// Something is out of range.
    #[error("wire.{what} = {value} is out of range: choose {least} to {most}")]
    Range {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: u32,
        /// The least that is good.
        least: u32,
        /// The most.
        most: u32,
    },
    /// The device.
    #[cfg(feature = "verbs")]
    #[error(transparent)]
    Device(#[from] crate::wire::verbs::device::DeviceError),
}

/// What carries the lanes.
#[derive(Debug, Clone)]
pub enum Carrier {
    /// TCP.
    Tcp,
    /// A device of the host.
    #[cfg(feature = "verbs")]
    Verbs {
        /// Its name.
        name: String,
        /// Entry of its GID table, if one was asked for.
        gid_index: Option<u8>,
        /// How much memory each lane has.
        settings: Settings,
    },
}

impl Carrier {
    /// What is asked for, if it is there.
    ///
    /// # Errors
    ///
    /// [`CarrierError`].
    pub fn open(config: &CarrierConfig) -> Result<Self, CarrierError> {
        match &config.device {
            None => Ok(Self::Tcp),
            #[cfg(not(feature = "verbs"))]
            Some(name) => Err(CarrierError::NotBuilt(name.clone())),
            #[cfg(feature = "verbs")]
            Some(name) => {
                let settings = settings(config)?;
                // Each link opens it anew, so that one that was removed may come back. Now it has to be there.
                Device::open(name, config.gid_index)?;
                let gid_index = config.gid_index;
                Ok(Self::Verbs { name: name.clone(), gid_index, settings })
            }
        }
    }

    /// Which kind it is: both ends have the same.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            #[cfg(feature = "verbs")]
            Self::Verbs { .. } => "verbs",
        }
    }

    /// Looks at its device.
    #[cfg(feature = "verbs")]
    pub fn watch(&self) -> Option<Watch> {
        match self {
            Self::Tcp => None,
            Self::Verbs { name, gid_index, .. } => Some(Watch::new(name, *gid_index)),
        }
    }

    /// For people: the device, if there is one.
    pub fn name(&self) -> &str {
        match self {
            Self::Tcp => "tcp",
            #[cfg(feature = "verbs")]
            Self::Verbs { name, .. } => name,
        }
    }
}

#[cfg(feature = "verbs")]
fn settings(config: &CarrierConfig) -> Result<Settings, CarrierError> {
    use crate::wire::verbs::endpoint::{SLOT_BYTES, SLOTS};
    let default = Settings::default();
    let slots = config.slots.unwrap_or(default.slots);
    let kib = config.slot_kib.unwrap_or(default.slot_bytes >> 10);
    for (what, value, least, most) in [
        ("slots", slots, *SLOTS.start(), *SLOTS.end()),
        ("slot_kib", kib, *SLOT_BYTES.start() >> 10, *SLOT_BYTES.end() >> 10),
    ] {
        if !(least..=most).contains(&value) {
            return Err(CarrierError::Range { what, value, least, most });
        }
    }
    Ok(Settings { slots, slot_bytes: kib << 10 })
}
