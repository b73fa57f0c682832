// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is measured between two guests, and how long each measurement may take.
//!
//! - [`program`]: the programs, and over what they run.
//! - [`measurement`]: one number of each kind, as a program printed it.
//! - [`sizes`]: which message sizes are measured.
//! - [`pace`]: how many iterations fit into the time of one measurement.

pub mod measurement;
pub mod pace;
pub mod program;
pub mod sizes;

pub use self::{
    measurement::{Measurement, Values},
    pace::Pace,
    program::{Kind, Program, Transport},
    sizes::Sizes,
};
