// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A few seconds of what `cargo xtask chaos` does for long: enough to see that memory may still be
//! swapped, copied on write, moved, merged, split and unplugged under traffic, and that the cases
//! still happen.

use std::time::Duration;

use anyhow::{Result, ensure};
use vnic_testbed::{
    chaos::{self, Case, Options, Outcome, report},
    provision::{Provision, kernel::Series, workspace::Workspace},
    report::table::Style,
};

/// Quick ones that stand for the rest, and their seconds: swap space, copies on write, addresses that
/// move, sizes that change, nodes; and memory that goes, which takes a kernel its time.
const CASES: [(&[&str], u64); 2] =
    [(&["swap-zram", "mremap", "remap", "fork", "ksm", "thp", "numa"], 5), (&["hot-unplug"], 30)];

#[test]
fn memory_is_disturbed_and_no_byte_is_wrong_6_12() -> Result<()> {
    disturb(Series::Stable)
}

#[test]
fn memory_is_disturbed_and_no_byte_is_wrong_7_3() -> Result<()> {
    disturb(Series::Backports)
}

fn disturb(series: Series) -> Result<()> {
    let workspace = Workspace::here();
    let daemon = workspace.target().join("release/vnic");
    ensure!(
        daemon.exists(),
        "there is no {}: `cargo xtask test` builds it, or `cargo build --release -p vnic`",
        daemon.display()
    );
    let provision = Provision::prepare(workspace)?;
    for (names, seconds) in CASES {
        let find = |name: &&str| Case::find(name).map_err(anyhow::Error::msg);
        let cases = names.iter().map(find).collect::<Result<Vec<_>>>()?.concat();
        let each = Duration::from_secs(seconds);
        let daemon = daemon.clone();
        let options = Options { cases, series: vec![series], each, together: each, daemon };
        passes(&chaos::run(&provision, &options)?)?;
    }
    Ok(())
}

fn passes(outcome: &Outcome) -> Result<()> {
    eprintln!("{}", report::table(&outcome.results, Style::Terminal));
    for (case, name, text) in &outcome.logs {
        let lines = text.lines().collect::<Vec<_>>();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        eprintln!("--- {case}: {name}:\n{end}");
    }
    ensure!(outcome.is_well(), "a case failed");
    Ok(())
}
