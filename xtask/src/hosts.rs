// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What runs on hosts that have RDMA devices: a daemon that can use those, guests that are processes, and programs that
//! measure.

use anyhow::Result;

use crate::tools::{self, cargo};

/// Builds all of it, where [`vnic_testbed::lab::programs`] looks for it.
pub fn build() -> Result<()> {
    tools::build_daemon_for_hosts()?;
    let target = tools::target_for_hosts();
    for what in [
        &["--package", "vnic", "--features", "verbs", "--examples"][..],
        &["--package", "vnic-testbed", "--example", "wire_guest", "--example", "port_events"],
    ] {
        let mut build = cargo(&["build", "--release"]);
        tools::run({
            build.args(what).env("CARGO_TARGET_DIR", &target);
            build
        })?;
    }
    Ok(())
}

/// Tests what needs no device of it.
pub fn test() -> Result<()> {
    tools::install_for_verbs()?;
    let mut tests = cargo(&["nextest", "run", "-p", "vnic", "--features", "verbs"]);
    tests.args(["--lib", "--example", "wire_bench"]);
    tests.args(["--filter-expr", "test(wire::verbs) + test(direct::) + kind(example)"]);
    tools::run(tests)
}
