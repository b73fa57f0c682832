// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask testbed`.

/// Nothing yet.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("not there yet")
}
