// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is measured between two guests, and how long each measurement may take.
//!
//! - [`program`]: the programs, and over what they run.
//! - [`measurement`]: one number of each kind, as a program printed it.
//! - [`cpu`]: the processor time that its operations took.
//! - [`goals`]: what has to come of it.
//! - [`sizes`]: which message sizes are measured.
//! - [`pace`]: how many iterations fit into the time of one measurement.

pub mod cpu;
pub mod goals;
pub mod measurement;
pub mod pace;
pub mod program;
pub mod sizes;

pub use self::{
    cpu::CpuTime,
    goals::{GOALS, Goal},
    measurement::{Measurement, Values},
    pace::Pace,
    program::{Kind, Program, Transport},
    sizes::Sizes,
};
