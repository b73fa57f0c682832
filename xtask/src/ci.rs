// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask ci`.

use crate::{test, tidy};

/// Everything that must hold before a change lands.
pub fn run() -> anyhow::Result<()> {
    tidy::run(&tidy::Args::default())?;
    test::run(&test::Args::default())
}
