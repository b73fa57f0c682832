// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Disks that become slow while the machine runs.

use serde_json::json;

use super::Vm;
use crate::error::Result;

impl Vm {
    /// Lets disk `number` of [`Hardware::disks`](super::Hardware::disks) do at most so many
    /// operations in a second; 0 is no limit.
    ///
    /// # Errors
    /// When QEMU knows no such disk.
    pub fn limit_disk(&self, number: usize, operations: u32) -> Result<()> {
        self.monitor(|qmp| {
            let limits = json!({
                "id": format!("/machine/peripheral/drive{number}/virtio-backend"),
                "iops": operations, "iops_rd": 0, "iops_wr": 0,
                "bps": 0, "bps_rd": 0, "bps_wr": 0,
            });
            qmp.execute("block_set_io_throttle", limits).map(drop)
        })
    }
}
