// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory modules that come and go while the machine runs.

use std::time::Duration;

use serde_json::json;

use super::{Vm, qmp::Qmp};
use crate::error::{Error, Result};

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

impl Vm {
    /// Plugs a module of `size` MiB (a multiple of 128) into a socket of
    /// [`Hardware::hotplug`](super::Hardware::hotplug), on NUMA node `node`. `name` is for
    /// [`unplug_dimm`](Self::unplug_dimm). The guest's kernel finds the memory a moment later, and
    /// uses it once somebody has brought it online.
    ///
    /// # Errors
    /// When QEMU refuses, for want of a socket for example.
    pub fn plug_dimm(&self, name: &str, size: u32, node: u32) -> Result<()> {
        let backend = format!("{name}-memory");
        self.monitor(|qmp| {
            let memory = json!({
                "qom-type": "memory-backend-memfd",
                "id": backend,
                "size": u64::from(size) * MIB,
                "share": true,
            });
            qmp.execute("object-add", memory)?;
            let module =
                json!({ "driver": "pc-dimm", "id": name, "memdev": backend, "node": node });
            let plugged = qmp.execute("device_add", module);
            if plugged.is_err() {
                let _ = qmp.execute("object-del", json!({ "id": backend }));
            }
            plugged.map(drop)
        })
    }

    /// Asks the guest to give the module back, and waits until QEMU has removed it.
    ///
    /// # Errors
    /// When the guest refuses, or has not answered within `limit`; the module stays then.
    pub fn unplug_dimm(&self, name: &str, limit: Duration) -> Result<()> {
        self.monitor(|qmp| {
            qmp.execute("device_del", json!({ "id": name }))?;
            let ended = qmp.event(limit, |event| {
                let about = event.data["device"] == name;
                about
                    && matches!(
                        event.name.as_str(),
                        "DEVICE_DELETED" | "DEVICE_UNPLUG_GUEST_ERROR" | "MEM_UNPLUG_ERROR"
                    )
            })?;
            let refused = |why: &str| {
                Error::unfit(
                    format!("guest {} did not give {name} back: {why}", self.name()),
                    "Bring its memory online as movable, or offline before.",
                )
            };
            match ended {
                None => Err(refused(&format!("no answer within {limit:?}"))),
                Some(event) if event.name != "DEVICE_DELETED" => Err(refused(&event.name)),
                Some(_) => {
                    let backend = format!("{name}-memory");
                    qmp.execute("object-del", json!({ "id": backend })).map(drop)
                }
            }
        })
    }

    /// Lets `ask` talk to the monitor of the machine's QEMU.
    ///
    /// # Errors
    /// Those of `ask`, or when there is no monitor.
    pub fn monitor<T>(&self, ask: impl FnOnce(&mut Qmp) -> Result<T>) -> Result<T> {
        let mut monitor = self.monitor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if monitor.is_none() {
            *monitor = Some(Qmp::connect(&self.monitor_socket)?);
        }
        match &mut *monitor {
            Some(qmp) => ask(qmp),
            None => unreachable!("connected above"),
        }
    }
}
