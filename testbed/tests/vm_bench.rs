// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory bench in guests of both kernels, cut short: it runs to its end, and finds what does not
//! depend on the clock.

use anyhow::{Result, ensure};
use vnic_testbed::{
    bench::memory::vm::{self, Effort},
    provision::{Provision, kernel::Series, workspace::Workspace},
};

/// How far times may be from their goals in a single round on an emulated machine: far enough that only what grows with the
/// thousand regions or the length of memory gets there, and no noise.
const SLACK: f64 = 100.0;

fn everything_is_measured(series: Series) -> Result<()> {
    let workspace = Workspace::here();
    let program = workspace.target().join("release/vnic");
    ensure!(
        program.exists(),
        "there is no {}: `cargo xtask test` builds it, or `cargo build --release -p vnic`",
        program.display()
    );
    let found = vm::run(&Provision::prepare(workspace)?, series, &program, Effort::SMOKE)?;
    for row in &found.rows {
        let left_out = row
            .missing
            .as_deref()
            .is_some_and(|why| why.contains("quick run") || why.contains("cannot be"));
        ensure!(left_out || row.figure.is_some_and(|figure| figure.min > 0.0), "{row:?}");
    }
    ensure!(found.rows.len() > 60, "{} rows", found.rows.len());
    for verdict in &found.verdicts {
        ensure!(verdict.met_within(SLACK), "{verdict:?}");
    }
    Ok(())
}

#[test]
fn the_memory_bench_measures_everything_6_12() -> Result<()> {
    everything_is_measured(Series::Stable)
}

#[test]
fn the_memory_bench_measures_everything_7_3() -> Result<()> {
    everything_is_measured(Series::Backports)
}
