// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask test`.

use crate::{
    hosts,
    tools::{self, cargo},
};
use anyhow::{Context, Result};
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::workspace::Workspace;

/// What to test.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Leave out the tests that boot virtual machines, and what they need
    #[arg(long)]
    no_vm: bool,
    /// Leave out the tests that show pages to a browser, and install none
    #[arg(long)]
    no_browser: bool,
    /// Leave out the model checks of the lock-free parts
    #[arg(long)]
    no_loom: bool,
    /// Leave out that the stress of quiescence finds a device that leaves out a step of it
    #[arg(long)]
    no_sabotage: bool,
    /// Passed on to nextest, e.g. a filter: `cargo xtask test -- rc_basic`
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// Packages with models for loom, and the test binaries that hold them.
const LOOM: &[(&str, &str)] = &[("vnic-iommu", "loom_quiesce")];

/// Tests of two guests that have to hold whichever daemons they are on.
const PAIRS: &str =
    "test(/^rc_/) + test(/^faults/) + test(/^pages/) + test(/^regions/) + test(/^storms/)";

/// Runs everything that was not left out.
pub fn run(args: &Args) -> Result<()> {
    ensure_nextest()?;
    if !args.no_vm {
        let provision = Provision::prepare(Workspace::at(&tools::root()))
            .context("cannot set the machine up for virtual machines (`--no-vm` tests without)")?;
        provision.test_provider()?;
    }
    // Virtual machines get the daemon that users run.
    tools::run(cargo(&["build", "--release", "--package", "vnic"]))?;
    if !args.no_vm {
        hosts::test()?;
        hosts::build()?;
    }
    let mut tests = cargo(&["nextest", "run", "--workspace", "--exclude", "vnic-provider"]);
    let kinds = [
        (args.no_vm, "boot virtual machines", "not binary(/^vm_/)"),
        (args.no_browser, "show pages to a browser", "not binary(/^browser_/)"),
    ];
    let left_out = kinds.iter().filter(|(left_out, ..)| *left_out).collect::<Vec<_>>();
    for (_, what, _) in &left_out {
        eprintln!("leaving out the tests that {what}");
    }
    if !left_out.is_empty() {
        // nextest runs what matches any of several expressions.
        let others = left_out.iter().map(|(.., others)| *others).collect::<Vec<_>>();
        tests.args(["--filter-expr", &others.join(" and ")]);
    }
    tests.args(&args.nextest);
    tools::run(tests)?;
    // The device again with several workers, which share out the queue pairs of each process.
    let mut several = cargo(&["nextest", "run", "-p", "vnic", "--test", "driver"]);
    tools::run({
        several.args(&args.nextest).args(["--no-tests", "pass"]).env("VNIC_TEST_WORKERS", "3");
        several
    })?;
    // And pairs of guests again on two daemons with a wire between them.
    let mut apart = cargo(&["nextest", "run", "-p", "vnic", "--test", "driver"]);
    tools::run({
        apart.args(["--filter-expr", PAIRS]).args(&args.nextest);
        apart.args(["--no-tests", "pass"]).env("VNIC_TEST_WIRE", "tcp");
        apart
    })?;
    // nextest runs no documentation tests.
    tools::run(cargo(&["test", "--quiet", "--doc", "--workspace", "--exclude", "vnic-provider"]))?;
    if !args.no_loom {
        for (package, test) in LOOM {
            let mut model = cargo(&["nextest", "run", "--release", "-p", package, "--test", test]);
            model.env("RUSTFLAGS", "--cfg loom");
            model.env("CARGO_TARGET_DIR", tools::root().join("target/loom"));
            tools::run(model)?;
        }
    }
    if !args.no_sabotage {
        find_sabotage()?;
    }
    Ok(())
}

/// Builds a daemon that leaves out steps of the epoch protocol on request, and demands that the
/// stress finds each of them missing.
fn find_sabotage() -> Result<()> {
    let target = tools::root().join("target/sabotage");
    let mut daemon = cargo(&["build", "--package", "vnic", "--bin", "vnic"]);
    daemon.env("RUSTFLAGS", "--cfg vnic_sabotage").env("CARGO_TARGET_DIR", &target);
    tools::run(daemon)?;
    let test = ["-p", "vnic", "--test", "stress_quiesce", "--run-ignored", "only"];
    let mut stress = cargo(&["nextest", "run"]);
    stress.args(test).env("VNIC_SABOTAGED_DAEMON", target.join("debug/vnic"));
    tools::run(stress)
}

/// nextest is what the tests are grouped and limited for; a machine without it gets it.
fn ensure_nextest() -> Result<()> {
    let found = cargo(&["nextest", "--version"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if found {
        return Ok(());
    }
    tools::run(cargo(&["install", "--locked", "cargo-nextest"]))
        .context("cannot install cargo-nextest; install it by hand and try again")
}
