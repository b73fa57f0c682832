// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is wrong with the kernel's rxe, and that it is right once it is mended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vnic_testbed::{
    lab::{Cable, HostVm, Netem},
    provision::{Provision, image::Overlay, kernel::Series, workspace::Workspace},
    workload::perftest,
};

use super::{hosts::LIMIT, stock::was_mended_by_sending_again};

/// The program that looks at what regions hold.
const PROGRAM: &str = "vnic-regions";

/// Messages of 64 KiB, in a queue of one: about a thousand are sent again, and the kernel's own stops for good after
/// two hundred or so.
const MESSAGES: &[&str] = &["-s", "65536", "-n", "1800", "-t", "1"];

/// It takes 35 seconds on an idle machine.
const LONG: Duration = Duration::from_secs(300);

#[test]
fn memory_on_demand_holds_what_was_sent_once_rxe_is_mended() -> Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    let mended = mended(&provision)?;
    let ended = on_demand(&provision, &[mended])?;
    ensure!(ended.is_none(), "the mended one: {ended:?}");
    // Otherwise the program could not tell, or there is nothing to mend any more.
    let ended = on_demand(&provision, &[])?.context("the kernel's rxe is right: drop the mends")?;
    ensure!(ended.contains("byte"), "{ended}");
    Ok(())
}

#[test]
fn a_mended_rxe_goes_on_after_any_loss() -> Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    let host = HostVm::boot(&provision, &[mended(&provision)?])?;
    let cable = Cable::lay(host.guest())?;
    cable.spoil(&Netem { loss: 1.0, ..Netem::default() })?;
    let before = cable.counters()?;
    perftest::between(cable.ends(), "ib_send_bw", MESSAGES, LONG)?;
    let [east, west] = cable.counters()?;
    let grown = [east.since(&before[0]), west.since(&before[1])];
    was_mended_by_sending_again(&grown)?;
    Ok(())
}

fn mended(provision: &Provision) -> Result<Overlay> {
    Ok(provision.mended_rxe(&provision.kernel(Series::Backports)?)?)
}

/// What the program complains about; `None` if all is well.
fn on_demand(provision: &Provision, overlays: &[Overlay]) -> Result<Option<String>> {
    let programs = provision.build_guest_programs()?;
    let program = programs.iter().find(|program| program.name == PROGRAM).context(PROGRAM)?;
    let overlays = [overlays, &[program.overlay()?]].concat();
    let host = HostVm::boot(provision, &overlays)?;
    let cable = Cable::lay(host.guest())?;
    let [east, _] = cable.ends();
    let gid = east.device.gid_index.to_string();
    let run = east.place.command([PROGRAM, &east.device.name, &gid, "on-demand"]);
    let output = run.limit(LIMIT).output()?;
    let said = output.stderr_text();
    Ok(output.success().is_err().then_some(said))
}
