// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What guests and daemon hold, as each of them counts it.

use anyhow::Result;
pub use vnic_testbed::counters::{Status, held_by_module, of_module};

use crate::bed::Bed;

/// Waits until neither the guest's module nor the daemon holds anything for it.
pub fn nothing_is_held(bed: &Bed, side: usize) -> Result<()> {
    Ok(vnic_testbed::counters::nothing_is_held(&bed.program, &bed.pair, side)?)
}
