// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What it costs that registered memory is not pinned: registering it, finding it, faulting it in,
//! taking it away.
//!
//! Two lanes, which complete each other:
//!
//! - [`process`]: guests that are processes, on a real daemon. Everything runs at the speed of this
//!   machine, and nothing of a guest's kernel is in the figures.
//! - [`vm`]: real guests, with rxe, which pins, beside the vNIC. Under emulation their times are
//!   worth something only beside each other.

pub mod process;
pub mod vm;

use crate::measure::sizes;

/// Sizes of memory that is registered.
pub const REGISTERED: [u64; 4] = [4 << 10, 1 << 20, 1 << 30, 64 << 30];

/// How much longer registering the slowest size may take than the quickest.
pub const FLAT: f64 = 1.5;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of everything.
    pub rounds: usize,
    /// Samples of a round, of what takes microseconds.
    pub samples: usize,
    /// Leave out what takes long, and say less surely how it is.
    pub quick: bool,
}

impl Effort {
    /// What the figures in the documentation were taken with.
    pub const FULL: Self = Self { rounds: 9, samples: 100, quick: false };

    /// A first look, in a few seconds.
    pub const QUICK: Self = Self { rounds: 3, samples: 20, quick: true };
}

/// A size as a person would write it.
pub fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ => sizes::text(bytes),
    }
}
