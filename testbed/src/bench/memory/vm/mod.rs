// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A real guest with a vNIC and, beside it, rxe: a device that pins what is registered.
//!
//! | module | measures |
//! |---|---|
//! | [`register`] | `ibv_reg_mr` and `ibv_dereg_mr`, touched memory and untouched |
//! | [`touch`] | the first WRITE to a page that is there, missing or swapped out |
//! | [`invalidate`] | `madvise`, `mprotect` and `munmap`, by what a device does meanwhile |
//! | [`regions`] | `fork`, `mprotect` and `munmap` of a process with many regions |
//!
//! [`bed`] is the guest, [`program`] reads what the program in it prints.

pub mod bed;
pub mod invalidate;
pub mod program;
pub mod regions;
pub mod register;
pub mod touch;

use std::path::Path;

use self::bed::Bed;
use crate::{
    bench::{self, Experiment, Findings},
    complaint::kernel_is_content,
    error::Result,
    provision::{Provision, kernel::Series},
};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of everything.
    pub rounds: usize,
    /// Samples of a round, of what is quick.
    pub samples: usize,
    /// Leave out what takes long.
    pub quick: bool,
}

impl Effort {
    /// What the figures in the documentation were taken with.
    pub const FULL: Self = Self { rounds: 5, samples: 50, quick: false };

    /// A first look.
    pub const QUICK: Self = Self { rounds: 2, samples: 15, quick: true };

    /// Whether a guest works at all.
    pub const SMOKE: Self = Self { rounds: 1, samples: 4, quick: true };
}

/// Boots a guest of `series` on a daemon at `program` and runs the whole lane in it.
///
/// # Errors
/// When the guest cannot be built or booted, when the program in it fails, or when its kernel
/// complains.
pub fn run(
    provision: &Provision,
    series: Series,
    program: &Path,
    effort: Effort,
) -> Result<Findings> {
    let bed = Bed::boot(provision, series, program)?;
    let mut experiments: Vec<Box<dyn Experiment + '_>> = vec![
        Box::new(register::Register::new(&bed, effort)),
        Box::new(touch::Touch::new(&bed, effort)),
        Box::new(invalidate::Invalidate::new(&bed, effort)),
        Box::new(regions::Regions::new(&bed, effort)),
    ];
    let found = bench::run(&bed.lane(), &mut experiments, effort.rounds);
    drop(experiments);
    let checked = found.and_then(|found| kernel_is_content(bed.guest()).map(|()| found));
    checked.inspect_err(|_| bed.show_logs())
}
