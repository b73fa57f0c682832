// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A few seconds of what `cargo xtask chaos` does for long: enough to see that memory may still be
//! swapped, copied on write, moved, merged, split and unplugged under traffic, and that the cases
//! still happen.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use vnic_testbed::{
    chaos::{self, Case, Options, Outcome, Wire, report},
    lab,
    provision::{Provision, kernel::Series, workspace::Workspace},
    report::table::Style,
};

/// Quick ones that stand for the rest, and their seconds: swap space, copies on write, addresses that
/// move, sizes that change, nodes; and memory that goes, which takes a kernel its time.
const CASES: [(&[&str], u64); 2] =
    [(&["swap-zram", "mremap", "remap", "fork", "ksm", "thp", "numa"], 5), (&["hot-unplug"], 30)];

/// Those that are done with a wire between the guests, too.
const OVER_A_WIRE: [(&[&str], u64); 1] = [(&["swap-zram", "mremap", "remap", "fork", "thp"], 5)];

/// Those that are done between guests inside of hosts, which are slow: throwing away, swap space, copies on write, pages
/// that migrate, addresses that move and come again.
const BETWEEN_HOSTS: [(&[&str], u64); 1] =
    [(&["dontneed", "swap-zram", "fork", "move-pages", "mremap", "remap"], 10)];

#[test]
fn memory_is_disturbed_and_no_byte_is_wrong_6_12() -> Result<()> {
    disturb(Series::Stable, &CASES, &Wire::None)
}

#[test]
fn memory_is_disturbed_and_no_byte_is_wrong_7_3() -> Result<()> {
    disturb(Series::Backports, &CASES, &Wire::None)
}

#[test]
fn memory_is_disturbed_and_no_byte_is_wrong_over_a_wire_7_3() -> Result<()> {
    disturb(Series::Backports, &OVER_A_WIRE, &Wire::Tcp)
}

#[test]
fn memory_is_disturbed_and_no_byte_is_wrong_between_hosts_with_rxe() -> Result<()> {
    let wire = Wire::Rxe(daemon(lab::built(&Workspace::here()).join("vnic"))?);
    disturb(Series::Backports, &BETWEEN_HOSTS, &wire)
}

/// A daemon that was built before.
fn daemon(daemon: PathBuf) -> Result<PathBuf> {
    ensure!(daemon.exists(), "there is no {}: `cargo xtask test` builds it", daemon.display());
    Ok(daemon)
}

fn disturb(series: Series, cases: &[(&[&str], u64)], wire: &Wire) -> Result<()> {
    let daemon = match wire {
        Wire::Rxe(daemon) => daemon.clone(),
        Wire::None | Wire::Tcp => daemon(Workspace::here().target().join("release/vnic"))?,
    };
    let workspace = Workspace::here();
    let provision = Provision::prepare(workspace)?;
    for &(names, seconds) in cases {
        let find = |name: &&str| Case::find(name).map_err(anyhow::Error::msg);
        let cases = names.iter().map(find).collect::<Result<Vec<_>>>()?.concat();
        let each = Duration::from_secs(seconds);
        let daemon = daemon.clone();
        let (series, wire) = (vec![series], wire.clone());
        let options = Options { cases, series, each, together: each, daemon, wire };
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
