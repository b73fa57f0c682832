// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the host's device can be used: looked at by itself, since lanes learn of it only when they have something to
//! send.

use super::device::Device;
use super::events::DeviceEvent;
use std::sync::Arc;

/// Looks at the device of a name, whether it is there or not.
#[derive(Debug)]
pub struct Watch {
    name: String,
    gid_index: Option<u8>,
    /// Open for as long as it is there. A context that was kept longer would be one of a device that is gone, even when
    /// there is another one of its name.
    device: Option<Arc<Device>>,
}

impl Watch {
    /// For the device called `name`, with an address of this index if one was asked for.
    pub fn new(name: &str, gid_index: Option<u8>) -> Self {
        Self { name: name.to_owned(), gid_index, device: None }
    }

    /// Whether it is there, has not failed, and its port is active.
    pub fn look(&mut self) -> bool {
        let device = match self.device.take() {
            Some(device) => device,
            None => match Device::open(&self.name, self.gid_index) {
                Ok(device) => device,
                Err(error) => {
                    tracing::trace!(%error, "the device of the wire cannot be used");
                    return false;
                }
            },
        };
        while let Some(event) = device.next_event() {
            // Lanes tell the log.
            if event == DeviceEvent::Fatal {
                return false;
            }
        }
        match device.is_active() {
            Ok(active) => {
                self.device = Some(device);
                active
            }
            Err(_) => false,
        }
    }
}
