// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests that are virtual machines, inside hosts that have RDMA devices: QEMU, module, provider and stock programs as users
//! have them, over rxe.

mod direct;
mod port;
mod relay;

use std::time::Duration;

use anyhow::{Result, ensure};
use vnic_testbed::{
    lab::{GuestPlan, PROGRAM, built},
    provision::{Provision, image::Overlay, kernel::Series, workspace::Workspace},
    vm::Hardware,
};

/// Longest run of a program; it takes seconds.
const LIMIT: Duration = Duration::from_secs(100);

/// The daemon with what it needs for RDMA devices, to be laid over a host's image.
fn daemon() -> Result<Vec<Overlay>> {
    let program = built(&Workspace::here()).join("vnic");
    ensure!(program.exists(), "there is no {}: `cargo xtask test` builds it", program.display());
    Ok(vec![Overlay::host(PROGRAM, &program)?])
}

/// Guests with the driver and the programs of these tests.
fn plan(provision: &Provision) -> Result<GuestPlan> {
    let kernel = provision.kernel(Series::Backports)?;
    let mut overlays = provision.guest_driver(&kernel)?;
    for program in provision.build_guest_programs()? {
        overlays.push(program.overlay()?);
    }
    let image = provision.image(&kernel, &overlays)?;
    let hardware = Hardware::default();
    Ok(GuestPlan { image, memory: 512, hardware, kernel_arguments: String::new() })
}

/// Shows the logs if it has failed.
fn shown<T>(ended: Result<T>, logs: impl FnOnce() -> Vec<(String, String)>) -> Result<T> {
    if let Err(error) = &ended {
        // Once more at the end: the logs are long, and whoever shows them may cut them.
        eprintln!("--- failed: {error:#}");
        for (name, text) in logs() {
            let lines = text.lines().collect::<Vec<_>>();
            eprintln!("--- {name}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
    ended
}
